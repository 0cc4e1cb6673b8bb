package awskms_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

var sentinels = []error{
	provider.ErrKeyNotFound, provider.ErrInvalidKey, provider.ErrInvalidCiphertext, provider.ErrDecryptionFailed,
	provider.ErrEncryptionFailed, provider.ErrProviderUnavailable, provider.ErrEmptyPlaintext, provider.ErrEmptyCiphertext,
	provider.ErrContextMismatch, provider.ErrUntrustedKey, provider.ErrAccessDenied, provider.ErrKeyDisabled,
	provider.ErrKeyPendingDeletion, provider.ErrKeyUsage, provider.ErrClosed, context.Canceled, context.DeadlineExceeded,
}

// requireOneSentinel checks that an error holds one documented error, and says it once.
func requireOneSentinel(t *testing.T, err error) {
	t.Helper()
	var held []error
	for _, s := range sentinels {
		if errors.Is(err, s) {
			held = append(held, s)
			require.Equal(t, 1, strings.Count(err.Error(), s.Error()), "%v", err)
		}
	}
	require.Len(t, held, 1, "%v", err)
}

// uses are all ways to ask KMS.
var uses = map[string]func(context.Context, ability, *used) error{
	"GetKeyInfo": func(ctx context.Context, p ability, _ *used) error {
		_, err := p.GetKeyInfo(ctx, "")
		return err
	},
	"HealthCheck": func(ctx context.Context, p ability, _ *used) error { return provider.Check(ctx, p) },
	"GenerateDataKey": func(ctx context.Context, p ability, _ *used) error {
		_, err := p.GenerateDataKey(ctx, nil)
		return err
	},
	"WrapDataKey": func(ctx context.Context, p ability, u *used) error {
		_, err := p.WrapDataKey(ctx, u.key.PlaintextKey, nil)
		return err
	},
	"UnwrapDataKey": func(ctx context.Context, p ability, u *used) error {
		_, err := p.UnwrapDataKey(ctx, &provider.UnwrapDataKeyRequest{EncryptedKey: u.key.EncryptedKey, Size: 32})
		return err
	},
	"Encrypt, short": func(ctx context.Context, p ability, _ *used) error {
		_, err := envelope.Seal(ctx, p, "x", nil)
		return err
	},
	"Encrypt, long": func(ctx context.Context, p ability, _ *used) error {
		_, err := envelope.Seal(ctx, p, strings.Repeat("x", 5000), nil)
		return err
	},
	"Decrypt, short": func(ctx context.Context, p ability, u *used) error {
		_, err := envelope.Open(ctx, p, u.short, nil)
		return err
	},
	"Decrypt, long": func(ctx context.Context, p ability, u *used) error {
		_, err := envelope.Open(ctx, p, u.long, nil)
		return err
	},
	"ReEncrypt": func(ctx context.Context, p ability, u *used) error {
		_, _, err := p.ReEncrypt(ctx, p, u.blob, nil)
		return err
	},
}

// used is what was encrypted before things went wrong.
type used struct {
	key         *provider.DataKey
	short, long string
	blob        []byte // of short
}

func newUsed(t *testing.T, p ability) *used {
	t.Helper()
	key, err := p.GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = key.Close() })
	short, err := envelope.Seal(t.Context(), p, "x", nil)
	require.NoError(t, err)
	long, err := envelope.Seal(t.Context(), p, strings.Repeat("x", 5000), nil)
	require.NoError(t, err)
	blob, err := base64.StdEncoding.DecodeString(short.Ciphertext)
	require.NoError(t, err)
	return &used{key, short.Ciphertext, long.Ciphertext, blob}
}

// Every failure is one of the documented errors, whatever was asked.
func TestWhatGoesWrongAtKMSHasOneMeaning(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	p := later(t, server, key.ARN)
	u := newUsed(t, p)
	type fault struct {
		do   kmstest.Action
		want error
		says string
	}
	faults := map[string]fault{
		"throttled":        {kmstest.Throttle(), provider.ErrProviderUnavailable, "rate"},
		"dropped":          {kmstest.Drop(), provider.ErrProviderUnavailable, ""},
		"cut":              {kmstest.Truncate(), provider.ErrProviderUnavailable, ""},
		"denied":           {kmstest.Deny(), provider.ErrAccessDenied, "not authorized"},
		"no KMS, 404":      {kmstest.Body(404, "text/html; charset=utf-8", "<html>Not Found</html>"), provider.ErrProviderUnavailable, `HTTP 404 Not Found with "text/html" is no answer of KMS`},
		"no KMS, 200":      {kmstest.Body(200, "text/html", "<html>Please sign in</html>"), provider.ErrProviderUnavailable, "check the endpoint"},
		"no KMS, 403":      {kmstest.Body(403, "text/html", "<html>Blocked</html>"), provider.ErrProviderUnavailable, "check the endpoint"},
		"no KMS, 301":      {kmstest.Body(301, "", ""), provider.ErrProviderUnavailable, "check the endpoint"},
		"no KMS, nothing":  {kmstest.Body(200, "application/x-amz-json-1.1", ""), provider.ErrProviderUnavailable, "no answer of KMS"},
		"no KMS, JSON":     {kmstest.Body(404, "application/json", `{"message":"no Route matched"}`), provider.ErrProviderUnavailable, "check the endpoint"},
		"another service":  {kmstest.Error("UnknownOperationException", ""), provider.ErrProviderUnavailable, "check the endpoint"},
		"balancer, 502":    {kmstest.Body(502, "text/html", "<html>Bad Gateway</html>"), provider.ErrProviderUnavailable, "502"},
		"balancer, 503":    {kmstest.Body(503, "", ""), provider.ErrProviderUnavailable, "503"},
		"unknown, 500":     {kmstest.Body(500, "application/x-amz-json-1.1", `{"__type":"NewException"}`), provider.ErrProviderUnavailable, "NewException"},
		"without end":      {kmstest.Body(200, "application/x-amz-json-1.1", strings.Repeat("{", 2<<20)), provider.ErrProviderUnavailable, "KMS's have at most"},
		"disabled":         {kmstest.Error("DisabledException", "off"), provider.ErrKeyDisabled, "off"},
		"not found":        {kmstest.Error("NotFoundException", "gone"), provider.ErrKeyNotFound, "gone"},
		"grant":            {kmstest.Error("InvalidGrantTokenException", "bad grant"), provider.ErrAccessDenied, "bad grant"},
		"usage":            {kmstest.Error("InvalidKeyUsageException", "sign"), provider.ErrKeyUsage, "sign"},
		"pending deletion": {kmstest.Error("KMSInvalidStateException", key.ARN+" is pending deletion."), provider.ErrKeyPendingDeletion, "cancel that"},
	}
	for _, code := range []string{
		"UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException", "InvalidClientTokenId", "IncompleteSignature",
		"MissingAuthenticationTokenException", "RequestExpired", "SignatureDoesNotMatch", "NotAuthorized", "OptInRequired", "InvalidGrantIdException",
	} {
		faults[code] = fault{kmstest.Body(403, "application/x-amz-json-1.1", fmt.Sprintf(`{"__type":%q,"message":"not you"}`, code)), provider.ErrAccessDenied, "not you"}
	}
	for _, code := range []string{"KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException", "LimitExceededException", "ServiceUnavailable", "RequestTimeout", "SlowDown"} {
		faults[code] = fault{kmstest.Error(code, "not now"), provider.ErrProviderUnavailable, "not now"}
	}
	cases := 0
	for name, f := range faults {
		remove := server.Inject(kmstest.Fault{Do: f.do})
		for use, try := range uses {
			err := try(t.Context(), p, u)
			require.ErrorIs(t, err, f.want, "%s, %s", name, use)
			require.ErrorContains(t, err, f.says, "%s, %s", name, use)
			requireOneSentinel(t, err)
			cases++

			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err = try(ctx, p, u)
			require.ErrorIs(t, err, context.Canceled)
			requireOneSentinel(t, err)
		}
		// At boot it is the same, but for the missing permission to describe a key.
		_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: newClient(t, server.URL, 1)})
		if name == "denied" {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, f.want, name)
			requireOneSentinel(t, err)
		}
		remove()
	}
	for use, try := range uses {
		require.NoError(t, try(t.Context(), p, u), use)
	}
	t.Logf("%d cases", cases)
}

// Codes that no list has are judged by what was asked.
func TestUnknownErrorsOfKMS(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	p := later(t, server, key.ARN)
	u := newUsed(t, p)
	server.Inject(kmstest.Fault{Do: kmstest.Error("ValidationException", "1 validation error")})
	for use, want := range map[string]error{
		"GetKeyInfo": provider.ErrInvalidKey, "GenerateDataKey": provider.ErrEncryptionFailed, "WrapDataKey": provider.ErrEncryptionFailed,
		"UnwrapDataKey": provider.ErrDecryptionFailed, "Decrypt, short": provider.ErrDecryptionFailed, "ReEncrypt": provider.ErrDecryptionFailed,
	} {
		err := uses[use](t.Context(), p, u)
		require.ErrorIs(t, err, want, use)
		requireOneSentinel(t, err)
	}
}

// What passes on its own is tried again; what does not is not.
func TestRetries(t *testing.T) {
	for name, c := range map[string]struct {
		do    kmstest.Action
		calls int
	}{
		"throttled": {kmstest.Throttle(), 4},
		"internal":  {kmstest.Error("KMSInternalException", ""), 4},
		"dropped":   {kmstest.Drop(), 4},
		"balancer":  {kmstest.Body(503, "text/html", "<html>"), 4},
		"denied":    {kmstest.Deny(), 1},
		"disabled":  {kmstest.Error("DisabledException", ""), 1},
		"no KMS":    {kmstest.Body(404, "text/html", "<html>"), 1},
	} {
		t.Run(name, func(t *testing.T) {
			server := kmstest.NewServer(t)
			key := server.CreateKey(kmstest.Key{})
			p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: newClient(t, server.URL, 4)})
			require.NoError(t, err)
			server.Inject(kmstest.Fault{Operation: "GenerateDataKey", Times: 3, Do: c.do})
			server.Reset()
			made, err := p.GenerateDataKey(t.Context(), nil)
			if c.calls > 1 {
				require.NoError(t, err)
				require.NoError(t, made.Close())
			} else {
				require.Error(t, err)
			}
			require.Equal(t, c.calls, server.Calls("GenerateDataKey"))
		})
	}
}

type brokenCredentials struct{ err error }

func (b brokenCredentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	if b.err == nil {
		<-ctx.Done()
		return aws.Credentials{}, ctx.Err()
	}
	return aws.Credentials{}, b.err
}

// Credentials that fail are denied access, at work as at boot, and no outage of KMS.
func TestCredentialsThatFail(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	for name, c := range map[string]struct {
		err  error
		want error
		says string
	}{
		"none":                {errors.New("no EC2 IMDS role found"), provider.ErrAccessDenied, "no AWS credentials; set them in the environment, a profile or a role"},
		"metadata timed out":  {fmt.Errorf("no EC2 IMDS role found, %w", context.DeadlineExceeded), provider.ErrAccessDenied, "no AWS credentials"},
		"a source that hangs": {nil, provider.ErrProviderUnavailable, "does not give them now"},
	} {
		t.Run(name, func(t *testing.T) {
			client := newClient(t, server.URL, 1, func(o *kms.Options) { o.Credentials = brokenCredentials{c.err} })
			config := awskms.Config{KeyID: key.ARN, Client: client, Timeout: 1e7}
			_, err := awskms.NewProvider(t.Context(), config)
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, c.says)
			requireOneSentinel(t, err)
			config.CheckLater = true
			p, err := awskms.NewProvider(t.Context(), config)
			require.NoError(t, err)
			_, err = p.GenerateDataKey(t.Context(), nil)
			require.ErrorIs(t, err, c.want)
			requireOneSentinel(t, err)

			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err = p.GenerateDataKey(ctx, nil)
			require.ErrorIs(t, err, context.Canceled)
			requireOneSentinel(t, err)
		})
	}
}

// A role that is assumed through STS: an outage there is an outage, a refusal is none.
func TestCredentialsOfARole(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	for _, c := range []struct {
		status int
		body   string
		want   error
	}{
		{403, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>not yours</Message></Error></ErrorResponse>`, provider.ErrAccessDenied},
		{400, `<ErrorResponse><Error><Code>ExpiredTokenException</Code><Message>old</Message></Error></ErrorResponse>`, provider.ErrAccessDenied},
		{503, ``, provider.ErrProviderUnavailable},
	} {
		sts := newHTTPServer(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/xml")
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body))
		})
		writeAWSConfig(t, "[profile role]\nregion = eu-west-1\nrole_arn = arn:aws:iam::111122223333:role/r\nsource_profile = base\n[profile base]\naws_access_key_id = a\naws_secret_access_key = s\n")
		t.Setenv("AWS_ENDPOINT_URL_STS", sts)
		p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Profile: "role", Endpoint: server.URL, CheckLater: true, MaxRetries: 1})
		require.NoError(t, err)
		_, err = p.GenerateDataKey(t.Context(), nil)
		require.ErrorIs(t, err, c.want)
		requireOneSentinel(t, err)
	}
}

// A Region that cannot be is a mistake of the configuration and no outage.
func TestARegionThatCannotBe(t *testing.T) {
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: "alias/store", Region: "eu west 1", CheckLater: true, MaxRetries: 1})
	if err == nil {
		_, err = envelope.Seal(t.Context(), p, "x", nil)
	}
	require.ErrorIs(t, err, provider.ErrInvalidKey)
	requireOneSentinel(t, err)
}

// Discovery in another Region than the message's names both.
func TestDiscoveryInAnotherRegionNamesBoth(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Region: "us-east-1"})
	replicated := server.CreateKey(kmstest.Key{Region: "us-east-1", MultiRegion: true})
	server.Replicate(replicated.ARN, "eu-west-1")
	there := func(o *kms.Options) { o.Region = "us-east-1" }
	client := newClient(t, server.URL, 1)
	d, err := awskms.NewDiscovery(t.Context(), awskms.Config{Accounts: []string{kmstest.Account}, Client: client})
	require.NoError(t, err)
	for _, c := range []struct {
		key  kmstest.Key
		says string
	}{{key, `is in Region "us-east-1", and this discovery asks KMS in eu-west-1`}, {replicated, ""}} {
		w, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: c.key.ARN, Client: newClient(t, server.URL, 1, there)})
		require.NoError(t, err)
		made, err := w.GenerateDataKey(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, made.Close())
		got, err := d.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Size: 32})
		if c.says == "" {
			require.NoError(t, err)
			require.NoError(t, got.Close())
			continue
		}
		require.ErrorIs(t, err, provider.ErrUntrustedKey)
		require.ErrorContains(t, err, c.says)
		e := message.Encrypter{Keyring: w}
		stored, err := e.Encrypt(t.Context(), []byte("content"), nil)
		require.NoError(t, err)
		_, _, err = (&message.Decrypter{Keyrings: []provider.Unwrapper{d}}).Decrypt(t.Context(), stored, nil)
		require.ErrorIs(t, err, provider.ErrUntrustedKey)
		require.ErrorContains(t, err, c.says)
	}

	// A key of another account is nothing that KMS is asked about; a key's failure is said as it
	// is.
	foreign := server.CreateKey(kmstest.Key{Account: "444455556666"})
	stored := sealed(t, server, foreign.ARN)
	server.Reset()
	require.ErrorIs(t, opened(t, stored, d), provider.ErrUntrustedKey)
	require.Zero(t, server.Calls(""))
	own := server.CreateKey(kmstest.Key{})
	stored = sealed(t, server, own.ARN)
	require.NoError(t, opened(t, stored, d))
	server.SetState(own.ARN, "Disabled")
	require.ErrorIs(t, opened(t, stored, d), provider.ErrKeyDisabled)
}
