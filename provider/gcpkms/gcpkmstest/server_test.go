package gcpkmstest_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	kms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"piko.sh/pikokms/internal/exported"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider/gcpkms/gcpkmstest"
)

func TestExported(t *testing.T) { exported.Test(t) }

// Google's own client meets the limits, checks and words of Cloud KMS.
func TestChecks(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	client, err := kms.NewKeyManagementClient(t.Context(), server.Options()...)
	require.NoError(t, err)
	defer client.Close()
	software, hsm := server.CreateKey(gcpkmstest.Key{}), server.CreateKey(gcpkmstest.Key{HSM: true})
	for _, c := range []struct {
		request *kmspb.EncryptRequest
		code    codes.Code
	}{
		{&kmspb.EncryptRequest{Name: software, Plaintext: make([]byte, 64<<10)}, codes.OK},
		{&kmspb.EncryptRequest{Name: software, Plaintext: make([]byte, 64<<10+1)}, codes.InvalidArgument},
		{&kmspb.EncryptRequest{Name: hsm, Plaintext: make([]byte, 4<<10), AdditionalAuthenticatedData: make([]byte, 4<<10)}, codes.OK},
		{&kmspb.EncryptRequest{Name: hsm, Plaintext: make([]byte, 4<<10), AdditionalAuthenticatedData: make([]byte, 4<<10+1)}, codes.InvalidArgument},
		{&kmspb.EncryptRequest{Name: software, Plaintext: []byte("x"), PlaintextCrc32C: wrapperspb.Int64(1)}, codes.InvalidArgument},
		{&kmspb.EncryptRequest{Name: software + "x", Plaintext: []byte("x")}, codes.NotFound},
	} {
		_, err := client.Encrypt(t.Context(), c.request)
		require.Equal(t, c.code, status.Code(err), "%v", err)
	}

	sealed, err := client.Encrypt(t.Context(), &kmspb.EncryptRequest{Name: software, Plaintext: []byte("x")})
	require.NoError(t, err)
	for _, request := range []*kmspb.DecryptRequest{
		{Name: hsm, Ciphertext: sealed.Ciphertext},
		{Name: software, Ciphertext: sealed.Ciphertext, AdditionalAuthenticatedData: []byte("y")},
		{Name: software, Ciphertext: sealed.Ciphertext[:4]},
		{Name: software, Ciphertext: sealed.Ciphertext[:3]},
		{Name: software, Ciphertext: append([]byte{0, 0, 0, 9}, sealed.Ciphertext[4:]...)},
	} {
		_, err := client.Decrypt(t.Context(), request)
		require.Equal(t, codes.InvalidArgument, status.Code(err))
	}
}

// The faults of every test server act on this one, too, and each call is recorded with its key.
func TestFaults(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	client, err := kms.NewKeyManagementClient(t.Context(), server.Options()...)
	require.NoError(t, err)
	defer client.Close()
	name := server.CreateKey(gcpkmstest.Key{})
	other := server.CreateKey(gcpkmstest.Key{})
	encrypt := func(name string, within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		_, err := client.Encrypt(ctx, &kmspb.EncryptRequest{Name: name, Plaintext: []byte("x")})
		return err
	}
	for what, do := range map[string]kmstest.Action{
		"dropped": kmstest.Drop(), "cut": kmstest.Truncate(), "half-open": kmstest.HalfOpen(), "stalled": kmstest.Stall(),
		"late": kmstest.Delay(time.Hour), "a page": kmstest.Body(http.StatusNotFound, "text/html", "<html>not here</html>"),
		"refused": gcpkmstest.Error(codes.PermissionDenied, "refused"),
	} {
		t.Run(what, func(t *testing.T) {
			remove := server.Inject(kmstest.Fault{Operation: "Encrypt", Key: name, Do: do})
			require.Error(t, encrypt(name, 200*time.Millisecond))
			require.NoError(t, encrypt(other, time.Minute))
			remove()
			server.Reset()
			require.NoError(t, encrypt(name, time.Minute))
			require.Equal(t, []kmstest.Request{{Operation: "Encrypt", KeyID: name}}, server.Requests())
		})
	}
}

// A server may end before it has begun to serve.
func TestServersThatEndAtOnce(t *testing.T) {
	for range 200 {
		t.Run("", func(t *testing.T) { gcpkmstest.NewServer(t) })
	}
}
