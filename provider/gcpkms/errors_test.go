package gcpkms_test

import (
	"context"
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/gcpkms"
	"piko.sh/pikokms/provider/gcpkms/gcpkmstest"
	"piko.sh/pikokms/service"
)

func TestErrors(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	key := server.CreateKey(gcpkmstest.Key{})
	c := config(server, key)
	c.MaxRetries = 1
	p := open(t, c)
	made, err := p.GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	defer made.Close()
	operations := map[string]func() error{
		"Encrypt": func() error {
			_, err := p.GenerateDataKey(t.Context(), nil)
			return err
		},
		"Decrypt": func() error {
			_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Size: 32})
			return err
		},
		"GetCryptoKey": func() error {
			_, err := p.GetKeyInfo(t.Context(), "")
			return err
		},
	}
	for _, c := range []struct {
		code     codes.Code
		sentinel error // of all methods, or nil
		text     string
		tries    int
	}{
		{codes.Unavailable, provider.ErrProviderUnavailable, "", 2},
		{codes.DeadlineExceeded, provider.ErrProviderUnavailable, "", 2},
		{codes.ResourceExhausted, provider.ErrProviderUnavailable, "quota", 2},
		{codes.Internal, provider.ErrProviderUnavailable, "", 2},
		{codes.Unknown, provider.ErrProviderUnavailable, "", 2},
		{codes.Aborted, provider.ErrProviderUnavailable, "", 2},
		{codes.Unimplemented, provider.ErrProviderUnavailable, "no answer of Cloud KMS", 1},
		{codes.NotFound, provider.ErrKeyNotFound, key, 1},
		{codes.PermissionDenied, provider.ErrAccessDenied, "roles/cloudkms.", 1},
		{codes.Unauthenticated, provider.ErrAccessDenied, "credentials", 1},
		{codes.FailedPrecondition, provider.ErrKeyDisabled, "", 1},
		{codes.InvalidArgument, nil, "", 1},
		{codes.OutOfRange, nil, "", 1},
	} {
		for method, ask := range operations {
			t.Run(c.code.String()+" of "+method, func(t *testing.T) {
				defer server.Inject(kmstest.Fault{Operation: method, Do: gcpkmstest.Error(c.code, "refused")})()
				server.Reset()
				err := ask()
				sentinel := c.sentinel
				if sentinel == nil {
					sentinel = map[string]error{"Encrypt": provider.ErrEncryptionFailed, "Decrypt": provider.ErrDecryptionFailed, "GetCryptoKey": provider.ErrInvalidKey}[method]
				}
				require.ErrorIs(t, err, sentinel)
				require.ErrorContains(t, err, c.text)
				require.ErrorContains(t, err, "refused", "what Cloud KMS says is kept")
				require.Equal(t, c.tries, server.Calls(method), "MaxRetries is 1")
			})
		}
	}
}

func TestPermissionTexts(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	key := server.CreateKey(gcpkmstest.Key{})
	p := open(t, config(server, key))
	denied := gcpkmstest.Error(codes.PermissionDenied, "Permission denied on resource (or it may not exist).")
	for method, text := range map[string]string{
		"Encrypt":      "roles/cloudkms.cryptoKeyEncrypterDecrypter or roles/cloudkms.cryptoKeyEncrypter (cloudkms.cryptoKeyVersions.useToEncrypt) on " + key,
		"Decrypt":      "roles/cloudkms.cryptoKeyEncrypterDecrypter or roles/cloudkms.cryptoKeyDecrypter (cloudkms.cryptoKeyVersions.useToDecrypt) on " + key,
		"GetCryptoKey": "roles/cloudkms.viewer (cloudkms.cryptoKeys.get) on " + key,
	} {
		remove := server.Inject(kmstest.Fault{Operation: method, Do: denied})
		err := provider.Check(t.Context(), p)
		if method == "GetCryptoKey" {
			require.NoError(t, err)
			_, err = p.GetKeyInfo(t.Context(), "")
		}
		require.ErrorIs(t, err, provider.ErrAccessDenied)
		require.ErrorContains(t, err, text)
		remove()
	}
	for reason, text := range map[string]string{
		"SERVICE_DISABLED":                "enable cloudkms.googleapis.com",
		"BILLING_DISABLED":                "billing account",
		"ACCESS_TOKEN_SCOPE_INSUFFICIENT": "auth/cloudkms",
	} {
		failed, err := status.New(codes.PermissionDenied, "refused").WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "googleapis.com"})
		require.NoError(t, err)
		remove := server.Inject(kmstest.Fault{Do: gcpkmstest.Intercept(func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
			return nil, failed.Err()
		})})
		err = provider.Check(t.Context(), p)
		require.ErrorIs(t, err, provider.ErrAccessDenied)
		require.ErrorContains(t, err, text)
		remove()
	}
}

// A service account with a role for use only may not describe the key.
func TestCheckWithoutPermissionToDescribe(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	key := server.CreateKey(gcpkmstest.Key{})
	deny := func(methods ...string) (remove func()) {
		var all []func()
		for _, method := range methods {
			all = append(all, server.Inject(kmstest.Fault{Operation: method, Do: gcpkmstest.Error(codes.PermissionDenied, "refused")}))
		}
		return func() {
			for _, remove := range all {
				remove()
			}
		}
	}
	for _, denied := range [][]string{{"GetCryptoKey"}, {"GetCryptoKey", "Decrypt"}, {"GetCryptoKey", "Encrypt"}} {
		remove := deny(denied...)
		open(t, config(server, key))
		remove()
	}
	remove := deny("GetCryptoKey", "Decrypt", "Encrypt")
	_, err := gcpkms.NewProvider(t.Context(), config(server, key))
	require.ErrorIs(t, err, provider.ErrAccessDenied)
	require.ErrorContains(t, err, "roles/cloudkms.cryptoKeyEncrypterDecrypter")
	remove()

	defer deny("GetCryptoKey")()
	server.SetState(key, 1, kmspb.CryptoKeyVersion_DISABLED)
	c := config(server, key)
	c.KeyName = "none"
	_, err = gcpkms.NewProvider(t.Context(), c)
	require.ErrorIs(t, err, provider.ErrKeyNotFound)
}

func TestCheck(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	signing := server.CreateKey(gcpkmstest.Key{Purpose: kmspb.CryptoKey_ASYMMETRIC_SIGN})
	_, err := gcpkms.NewProvider(t.Context(), config(server, signing))
	require.ErrorIs(t, err, provider.ErrKeyUsage)
	require.ErrorContains(t, err, "ASYMMETRIC_SIGN")

	c := config(server, signing)
	c.KeyName = "none"
	_, err = gcpkms.NewProvider(t.Context(), c)
	require.ErrorIs(t, err, provider.ErrKeyNotFound)

	// With CheckLater nothing is asked, and Cloud KMS may be down.
	server.Close()
	c.CheckLater, c.MaxRetries = true, 1
	p := open(t, c)
	_, err = p.GenerateDataKey(t.Context(), nil)
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
	c.CheckLater = false
	_, err = gcpkms.NewProvider(t.Context(), c)
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
}

// The circuit breaker opens for outages, damaged answers and throttling, and not for answers that
// show that Cloud KMS is up.
func TestCircuitBreaker(t *testing.T) {
	const outagesToOpen = 5 // of the circuit breaker of package service
	for code, want := range map[codes.Code]service.State{
		codes.Unavailable:        service.StateOpen,
		codes.ResourceExhausted:  service.StateOpen,
		codes.Internal:           service.StateOpen,
		codes.PermissionDenied:   service.StateClosed,
		codes.NotFound:           service.StateClosed,
		codes.FailedPrecondition: service.StateClosed,
		codes.InvalidArgument:    service.StateClosed,
	} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			server := gcpkmstest.NewServer(t)
			c := config(server, server.CreateKey(gcpkmstest.Key{}))
			c.MaxRetries = 1
			s := service.New(open(t, c), service.Config{})
			defer s.Close()
			server.Inject(kmstest.Fault{Do: gcpkmstest.Error(code, "refused")})
			for range outagesToOpen {
				_, err := s.GenerateDataKey(t.Context(), nil)
				require.Error(t, err)
			}
			require.Equal(t, want, s.State())
		})
	}
}
