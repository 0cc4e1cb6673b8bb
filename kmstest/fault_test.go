package kmstest_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

func TestFaultsSeenByTheClient(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	client := newClient(t, server, key.Region)
	encrypt := func() error {
		_, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key.ARN, Plaintext: []byte("x")})
		return err
	}
	require.NoError(t, encrypt())
	for name, c := range map[string]struct {
		action kmstest.Action
		code   string
		status int
	}{
		"denied":      {kmstest.Deny(), "AccessDeniedException", 400},
		"throttled":   {kmstest.Throttle(), "ThrottlingException", 400},
		"internal":    {kmstest.Error("KMSInternalException", "sorry"), "KMSInternalException", 500},
		"timeout":     {kmstest.Error("DependencyTimeoutException", ""), "DependencyTimeoutException", 500},
		"unavailable": {kmstest.Error("KeyUnavailableException", ""), "KeyUnavailableException", 500},
		"overloaded":  {kmstest.Error("ServiceUnavailable", ""), "ServiceUnavailable", 503},
		"dropped":     {kmstest.Drop(), "", 0},
		"cut":         {kmstest.Truncate(), "", 200},
		"no KMS":      {kmstest.Body(404, "text/html", "<html>not found</html>"), "", 404},
		"login page":  {kmstest.Body(200, "text/html", "<html>log in</html>"), "", 200},
		"bad gateway": {kmstest.Body(502, "text/plain", ""), "UnknownError", 502},
	} {
		t.Run(name, func(t *testing.T) {
			server.Inject(kmstest.Fault{Operation: "Encrypt", Key: key.ARN, Times: 1, Do: c.action})
			err := encrypt()
			require.Error(t, err)
			require.Equal(t, c.code, code(err), err)
			require.Equal(t, c.status, status(err), err)
			require.NoError(t, encrypt())
		})
	}
}

func TestFaultsChooseTheirCalls(t *testing.T) {
	server := kmstest.NewServer(t)
	a, b := server.CreateKey(kmstest.Key{}), server.CreateKey(kmstest.Key{})
	client := newClient(t, server, a.Region)
	encrypt := func(key kmstest.Key, pairs map[string]string) string {
		_, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key.ARN, Plaintext: []byte("x"), EncryptionContext: pairs})
		return code(err)
	}
	out, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &a.ARN, Plaintext: []byte("x")})
	require.NoError(t, err)

	// By operation and key, which may be where ReEncrypt comes from.
	remove := server.Inject(kmstest.Fault{Key: a.ID, Do: kmstest.Deny()})
	require.Equal(t, "AccessDeniedException", encrypt(a, nil))
	require.Empty(t, encrypt(b, nil))
	_, err = client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: out.CiphertextBlob})
	require.Equal(t, "AccessDeniedException", code(err))
	_, err = client.ReEncrypt(t.Context(), &kms.ReEncryptInput{CiphertextBlob: out.CiphertextBlob, DestinationKeyId: &b.ID})
	require.Equal(t, "AccessDeniedException", code(err))
	_, err = client.CreateKey(t.Context(), &kms.CreateKeyInput{})
	require.NoError(t, err)
	remove()
	remove()
	require.Empty(t, encrypt(a, nil))

	// By number: the second and third.
	server.Inject(kmstest.Fault{Operation: "Encrypt", After: 1, Times: 2, Do: kmstest.Throttle()})
	var seen []string
	for range 4 {
		seen = append(seen, encrypt(a, nil))
	}
	require.Equal(t, []string{"", "ThrottlingException", "ThrottlingException", ""}, seen)

	// By what is asked.
	server.Inject(kmstest.Fault{When: func(r kmstest.Request) bool { return r.EncryptionContext["tenant"] == "42" }, Do: kmstest.Deny()})
	require.Empty(t, encrypt(a, nil))
	require.Equal(t, "AccessDeniedException", encrypt(a, map[string]string{"tenant": "42"}))
	server.Heal()
	require.Empty(t, encrypt(a, map[string]string{"tenant": "42"}))

	// The first error of several wins.
	server.Inject(kmstest.Fault{Do: kmstest.Delay(time.Millisecond)})
	server.Inject(kmstest.Fault{Do: kmstest.Deny()})
	server.Inject(kmstest.Fault{Do: kmstest.Throttle()})
	require.Equal(t, "AccessDeniedException", encrypt(a, nil))
	_, err = client.CreateKey(t.Context(), &kms.CreateKeyInput{})
	require.ErrorContains(t, err, "on resource: *")
	require.Panics(t, func() { server.Inject(kmstest.Fault{Operation: "Encrypt"}) })
}

func TestKeyIsDisabledBetweenTwoCalls(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	client := newClient(t, server, key.Region)
	server.Inject(kmstest.Fault{Operation: "Decrypt", After: 1, Times: 1, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		server.SetState(key.ARN, "Disabled")
		next.ServeHTTP(w, r)
	}})
	out, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key.ID, Plaintext: []byte("x")})
	require.NoError(t, err)
	for _, want := range []string{"", "DisabledException"} {
		_, err = client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: out.CiphertextBlob})
		require.Equal(t, want, code(err))
	}
}

func TestLies(t *testing.T) {
	server := kmstest.NewServer(t)
	key, other := server.CreateKey(kmstest.Key{}), server.CreateKey(kmstest.Key{})
	client := newClient(t, server, key.Region)
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: client})
	require.NoError(t, err)
	for name, lie := range map[string]func(members map[string]any){
		"another key":     func(m map[string]any) { m["KeyId"] = other.ARN },
		"no key":          func(m map[string]any) { delete(m, "KeyId") },
		"short plaintext": func(m map[string]any) { m["Plaintext"] = m["Plaintext"].([]byte)[:31] },
		"no plaintext":    func(m map[string]any) { delete(m, "Plaintext") },
	} {
		t.Run(name, func(t *testing.T) {
			server.Inject(kmstest.Fault{Operation: "GenerateDataKey", Times: 1, Do: kmstest.Answer(lie)})
			_, err := p.GenerateDataKey(t.Context(), nil)
			require.ErrorIs(t, err, provider.ErrEncryptionFailed)
		})
	}

	// An emulator that does not tell a key's usage.
	server.Inject(kmstest.Fault{Operation: "DescribeKey", Times: 1, Do: kmstest.Answer(func(m map[string]any) {
		delete(m["KeyMetadata"].(map[string]any), "KeyUsage")
	})})
	out, err := client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key.ID})
	require.NoError(t, err)
	require.Empty(t, out.KeyMetadata.KeyUsage)

	// An answer where there is none.
	server.Inject(kmstest.Fault{Operation: "EnableKey", Times: 1, Do: kmstest.Answer(func(m map[string]any) { m["KeyId"] = "?" })})
	_, err = client.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &key.ID})
	require.NoError(t, err)
}

func TestWrongChecksumReachesTheClient(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	server.Inject(kmstest.Fault{Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		w.Header().Set("X-Amz-Crc32", "1")
		next.ServeHTTP(w, r)
	}})
	options := newClient(t, server, key.Region).Options()
	seen := &headers{RoundTripper: options.HTTPClient.(*http.Client).Transport}
	options.HTTPClient = &http.Client{Transport: seen}
	_, err := kms.New(options).DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key.ID})
	require.NoError(t, err)
	require.Equal(t, "1", seen.last.Get("X-Amz-Crc32"))
}

// headers keeps the headers of the last answer.
type headers struct {
	http.RoundTripper
	last http.Header
}

func (h *headers) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := h.RoundTripper.RoundTrip(r)
	if err == nil {
		h.last = response.Header
	}
	return response, err
}

func TestStalledCallsEndWithTheServer(t *testing.T) {
	for name, action := range map[string]kmstest.Action{
		"stalled": kmstest.Stall(), "half-open": kmstest.HalfOpen(), "late": kmstest.Delay(time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			server := kmstest.New()
			key := server.CreateKey(kmstest.Key{})
			client := newClient(t, server, key.Region)
			server.Inject(kmstest.Fault{Do: action})
			done := make(chan error)
			go func() {
				_, err := client.Encrypt(context.Background(), &kms.EncryptInput{KeyId: &key.ARN, Plaintext: []byte("x")})
				done <- err
			}()
			require.Eventually(t, func() bool { return server.Calls("Encrypt") == 1 }, time.Minute, time.Millisecond)
			server.Close()
			err := <-done
			require.Error(t, err)
			require.Empty(t, code(err))
		})
	}
}

func TestStalledCallsEndWithTheirCaller(t *testing.T) {
	for name, action := range map[string]kmstest.Action{"stalled": kmstest.Stall(), "half-open": kmstest.HalfOpen()} {
		t.Run(name, func(t *testing.T) {
			server := kmstest.NewServer(t)
			key := server.CreateKey(kmstest.Key{})
			client := newClient(t, server, key.Region)
			server.Inject(kmstest.Fault{Times: 1, Do: action})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error)
			go func() {
				_, err := client.Encrypt(ctx, &kms.EncryptInput{KeyId: &key.ARN, Plaintext: []byte("x")})
				done <- err
			}()
			require.Eventually(t, func() bool { return server.Calls("Encrypt") == 1 }, time.Minute, time.Millisecond)
			time.AfterFunc(50*time.Millisecond, cancel)
			err := <-done
			require.Error(t, err)
			require.Empty(t, code(err))
			_, err = client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key.ARN, Plaintext: []byte("x")})
			require.NoError(t, err)
		})
	}
}

func TestDelayedCallsAreCarriedOut(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	client := newClient(t, server, key.Region)
	server.Inject(kmstest.Fault{Do: kmstest.Delay(10 * time.Millisecond)})
	begin := time.Now()
	out, err := client.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &key.ID, KeySpec: types.DataKeySpecAes256})
	require.NoError(t, err)
	require.Len(t, out.Plaintext, 32)
	require.GreaterOrEqual(t, time.Since(begin), 10*time.Millisecond)
}

// What is dropped was carried out, as when a network fails after KMS has answered.
func TestDroppedCallsAreCarriedOut(t *testing.T) {
	server := kmstest.NewServer(t)
	client := newClient(t, server, kmstest.Region)
	key := server.CreateKey(kmstest.Key{})
	server.Inject(kmstest.Fault{Times: 1, Do: kmstest.Drop()})
	_, err := client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/x"), TargetKeyId: &key.ID})
	require.Error(t, err)
	require.Empty(t, code(err))
	require.False(t, strings.Contains(err.Error(), "StatusCode: 200"))
	_, err = client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/x"), TargetKeyId: &key.ID})
	require.Equal(t, "AlreadyExistsException", code(err))
}
