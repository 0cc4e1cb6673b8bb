package service_test

import (
	"cmp"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/service"
)

// client returns a client of a KMS in the process that does not try again, so that tests are quick.
func client(server *kmstest.Server, login aws.CredentialsProvider) *kms.Client {
	return kms.New(kms.Options{
		Region: kmstest.Region, BaseEndpoint: &server.URL, Credentials: login, RetryMaxAttempts: 1,
	})
}

var login = credentials.NewStaticCredentialsProvider("test", "test", "")

// revocable are credentials that fail once they are revoked.
type revocable struct{ failed bool }

func (r *revocable) Retrieve(ctx context.Context) (aws.Credentials, error) {
	if r.failed {
		return aws.Credentials{}, errors.New("the role is gone")
	}
	return login.Retrieve(ctx)
}

// What AWS KMS does opens the breaker only if it is an outage.
func TestWhatKMSDoes(t *testing.T) {
	for name, c := range map[string]struct {
		do       kmstest.Action
		revoke   bool
		patience time.Duration
		want     error
		outage   bool
	}{
		"denies":                     {do: kmstest.Deny(), want: provider.ErrAccessDenied},
		"denies a disabled key":      {do: kmstest.Error("DisabledException", "disabled"), want: provider.ErrKeyDisabled},
		"is not asked, without role": {revoke: true, want: provider.ErrAccessDenied},
		"stalls, and callers hurry":  {do: kmstest.Stall(), patience: 20 * time.Millisecond, want: context.DeadlineExceeded},
		"throttles":                  {do: kmstest.Throttle(), want: provider.ErrProviderUnavailable, outage: true},
		"fails":                      {do: kmstest.Error("KMSInternalException", "internal"), want: provider.ErrProviderUnavailable, outage: true},
		"drops connections":          {do: kmstest.Drop(), want: provider.ErrProviderUnavailable, outage: true},
	} {
		t.Run(name, func(t *testing.T) {
			server := kmstest.NewServer(t)
			key := server.CreateKey(kmstest.Key{})
			role := &revocable{}
			p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: client(server, aws.CredentialsProvider(role))})
			require.NoError(t, err)
			s := service.New(p, service.Config{})
			if role.failed = c.revoke; !c.revoke {
				server.Inject(kmstest.Fault{Operation: "GenerateDataKey", Do: c.do})
			}
			server.Reset()
			for range service.Failures {
				ctx, cancel := context.WithTimeout(t.Context(), cmp.Or(c.patience, time.Minute))
				err := entries["GenerateDataKey"](ctx, s, nil)
				cancel()
				require.ErrorIs(t, err, c.want)
				require.NotErrorIs(t, err, service.ErrBreakerOpen)
			}
			if c.outage {
				require.Equal(t, service.StateOpen, s.State())
			} else {
				require.Equal(t, service.StateClosed, s.State())
			}
			if c.revoke {
				require.Zero(t, server.Calls(""))
			}
		})
	}
}

// A host starts while the KMS of one of its two providers is down. It writes and reads with the
// other one meanwhile, and with both once the KMS is up.
func TestHostStartsWhileOneKMSIsDown(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	later := func() provider.Provider {
		p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: client(server, login), CheckLater: true})
		require.NoError(t, err)
		return p
	}
	folder, err := folderstorage.New(t.TempDir())
	require.NoError(t, err)
	defer folder.Close()
	open := func(options ...pikokms.Option) *pikokms.Host {
		host, err := pikokms.New(append(options, pikokms.WithStorage(folder))...)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, host.Close()) })
		return host
	}
	read := func(host *pikokms.Host, name string) (string, error) {
		r, err := host.Get(t.Context(), name)
		if err != nil {
			return "", err
		}
		content, err := io.ReadAll(r)
		return string(content), errors.Join(err, r.Close())
	}
	own := newRemote(t, 1)
	before := open(pikokms.WithCryptoProvider("kms", later()), pikokms.WithDefaultCryptoProvider("kms"))
	require.NoError(t, before.Put(t.Context(), "under-kms", strings.NewReader("first")))

	server.Inject(kmstest.Fault{Do: kmstest.Drop()})
	host := open(pikokms.WithCryptoProvider("kms", later()), pikokms.WithCryptoProvider("own", own), pikokms.WithDefaultCryptoProvider("own"))
	require.NoError(t, host.Put(t.Context(), "under-own", strings.NewReader("second")))
	content, err := read(host, "under-own")
	require.NoError(t, err)
	require.Equal(t, "second", content)
	_, err = read(host, "under-kms")
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)

	server.Heal()
	for name, want := range map[string]string{"under-own": "second", "under-kms": "first"} {
		content, err := read(host, name)
		require.NoError(t, err)
		require.Equal(t, want, content)
	}
}
