package gcpkmstest_test

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"

	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider/gcpkms"
	"piko.sh/pikokms/provider/gcpkms/gcpkmstest"
)

// A test of an application that encrypts, while Cloud KMS is down.
func Example() {
	_ = func(t *testing.T) {
		server := gcpkmstest.NewServer(t)
		server.CreateKey(gcpkmstest.Key{Name: "backups"})
		key, err := gcpkms.NewProvider(context.Background(), gcpkms.Config{
			ProjectID: gcpkmstest.Project, Location: gcpkmstest.Location, KeyRing: gcpkmstest.KeyRing, KeyName: "backups",
		}, server.Options()...)
		if err != nil {
			t.Fatal(err)
		}
		defer key.Close()
		defer server.Inject(kmstest.Fault{Operation: "Encrypt", Do: gcpkmstest.Error(codes.Unavailable, "down")})()
		// … what the application does with key
	}
}
