package vault_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/providertest"
	"piko.sh/pikokms/provider/vault"
	"piko.sh/pikokms/service"
)

// between puts a handler between a provider and its server. It may call next for the server's
// answer.
func between(t testing.TB, c vault.Config, handle func(w http.ResponseWriter, r *http.Request, next http.Handler)) vault.Config {
	t.Helper()
	target, err := url.Parse(c.Address)
	require.NoError(t, err)
	transport := &http.Transport{}
	next := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: transport}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handle(w, r, next) }))
	t.Cleanup(func() {
		proxy.Close()
		transport.CloseIdleConnections()
	})
	c.Address = proxy.URL
	return c
}

// hashiCorp behaves as HashiCorp Vault: it ignores the associated data of datakey, and says so.
func hashiCorp(ignoring ...string) func(w http.ResponseWriter, r *http.Request, next http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		ignores := false
		for _, operation := range ignoring {
			ignores = ignores || strings.Contains(r.URL.Path, "/"+operation+"/")
		}
		if !ignores {
			next.ServeHTTP(w, r)
			return
		}
		var asked map[string]any
		_ = json.NewDecoder(r.Body).Decode(&asked)
		_, given := asked["associated_data"]
		delete(asked, "associated_data")
		body, _ := json.Marshal(asked)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		recorder := httptest.NewRecorder()
		next.ServeHTTP(recorder, r)
		var answer map[string]any
		if !given || json.Unmarshal(recorder.Body.Bytes(), &answer) != nil {
			w.WriteHeader(recorder.Code)
			_, _ = w.Write(recorder.Body.Bytes())
			return
		}
		answer["warnings"] = []string{"Endpoint ignored these unrecognized parameters: [associated_data pikokms]"}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(recorder.Code)
		_ = json.NewEncoder(w).Encode(answer)
	}
}

// HashiCorp Vault's datakey has no associated data, so data keys are made here and encrypted there.
func TestHashiCorpVault(t *testing.T) {
	b := newBao(t)
	var calls atomic.Int64
	behave := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		calls.Add(1)
		hashiCorp("datakey")(w, r, next)
	}
	one, two := between(t, b.createKey("one", nil), behave), between(t, b.createKey("two", nil), behave)
	providertest.Run(t,
		func(t *testing.T) provider.EncryptionProvider { return open(t, one) },
		func(t *testing.T) provider.EncryptionProvider { return open(t, two) })

	p, pairs := open(t, one), map[string]string{"tenant": "42"}
	for i, want := range []int64{2, 1, 1} { // the first finds out
		calls.Store(0)
		sealed := seal(t, p, pairs)
		require.Equal(t, want, calls.Load(), "message %d", i)
		require.NoError(t, unseal(t, p, sealed))
	}

	// OpenBao, which binds it, is asked once each time, and opens what was made for Vault.
	calls.Store(0)
	direct := open(t, between(t, b.createKey("one", nil), func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		calls.Add(1)
		require.NotContains(t, r.URL.Path, "/encrypt/")
		next.ServeHTTP(w, r)
	}))
	calls.Store(0)
	for range 3 {
		seal(t, direct, pairs)
	}
	require.EqualValues(t, 3, calls.Load())
	require.NoError(t, unseal(t, direct, seal(t, p, pairs)))
}

// A server that binds no associated data is refused, whether it says so or not.
func TestServersThatBindNothing(t *testing.T) {
	b := newBao(t)
	for name, handle := range map[string]func(w http.ResponseWriter, r *http.Request, next http.Handler){
		"warns": hashiCorp("datakey", "encrypt"),
		"silent": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			recorder := httptest.NewRecorder()
			hashiCorp("datakey", "encrypt")(recorder, r, next)
			w.WriteHeader(recorder.Code)
			_, _ = io.WriteString(w, strings.ReplaceAll(recorder.Body.String(), "unrecognized parameters", ""))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, between(t, b.createKey(name, nil), handle))
			_, err := p.GenerateDataKey(t.Context(), map[string]string{"tenant": "42"})
			require.ErrorIs(t, err, provider.ErrInvalidProvider)
			key, err := provider.NewSecureBytes(make([]byte, 32))
			require.NoError(t, err)
			defer key.Close()
			_, err = p.WrapDataKey(t.Context(), key, map[string]string{"tenant": "42"})
			require.ErrorIs(t, err, provider.ErrInvalidProvider)
		})
	}
}

// A server that checks no associated data would open a data key of another message.
func TestAServerThatChecksNothing(t *testing.T) {
	b := newBao(t)
	c := b.createKey("app-data", nil)
	wrapped, err := open(t, c).GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	defer wrapped.PlaintextKey.Close()
	p := open(t, between(t, c, hashiCorp("decrypt")))
	_, err = p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped.EncryptedKey, Context: map[string]string{"tenant": "42"}, Size: provider.DataKeySize})
	require.ErrorIs(t, err, provider.ErrInvalidProvider)
	require.ErrorContains(t, err, "does not check associated data")
}

// Only a question with associated data has to find out whether a server binds it.
func TestQuestionsWithoutAssociatedData(t *testing.T) {
	b := newBao(t)
	p := open(t, between(t, b.createKey("app-data", nil), func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if strings.Contains(string(body), "pikokms") || strings.Contains(string(body), "associated_data") {
			t.Errorf("%s has more than it needs", r.URL.Path)
		}
		next.ServeHTTP(w, r)
	}))
	require.NoError(t, unseal(t, p, seal(t, p, nil)))
	key, err := provider.NewSecureBytes(make([]byte, 32))
	require.NoError(t, err)
	defer key.Close()
	_, err = p.WrapDataKey(t.Context(), key, nil)
	require.NoError(t, err)
}

// An answer is read up to 1 MiB.
func TestLongAnswers(t *testing.T) {
	b := newBao(t)
	c := b.createKey("app-data", nil)
	for size, want := range map[int]error{1 << 20: nil, 1<<20 + 1: provider.ErrProviderUnavailable} {
		p := open(t, between(t, c, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if !strings.Contains(r.URL.Path, "/datakey/") {
				next.ServeHTTP(w, r)
				return
			}
			recorder := httptest.NewRecorder()
			next.ServeHTTP(recorder, r)
			w.WriteHeader(recorder.Code)
			_, _ = w.Write(append(recorder.Body.Bytes(), bytes.Repeat([]byte(" "), size-recorder.Body.Len())...))
		}))
		key, err := p.GenerateDataKey(t.Context(), nil)
		require.ErrorIs(t, err, want, "%d bytes", size)
		if err == nil {
			require.NoError(t, key.PlaintextKey.Close())
		}
	}
}

// A standby server redirects to the active one.
func TestStandby(t *testing.T) {
	b := newBao(t)
	c := b.createKey("app-data", nil)
	standby := between(t, c, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, b.url+r.URL.Path, http.StatusTemporaryRedirect)
	})
	p := open(t, standby)
	require.NoError(t, unseal(t, p, seal(t, p, map[string]string{"tenant": "42"})))
}

// refuse answers as the server does when it refuses.
func refuse(status int, said string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{said}})
	}
}

func TestErrors(t *testing.T) {
	const outagesToOpen = 5 // of the circuit breaker of package service
	b := newBao(t)
	c := b.createKey("app-data", nil)
	c.MaxRetries = 1
	for name, f := range map[string]struct {
		handle   func(http.ResponseWriter, *http.Request, http.Handler)
		sentinel error // nil means that of the operation
		text     string
		tries    int
		state    service.State
	}{
		"sealed":       {refuse(503, "Vault is sealed"), provider.ErrProviderUnavailable, "unseal it", 2, service.StateOpen},
		"rate limit":   {refuse(429, "rate limit exceeded"), provider.ErrProviderUnavailable, "rate limit", 2, service.StateOpen},
		"fault":        {refuse(500, "internal error"), provider.ErrProviderUnavailable, "internal error", 2, service.StateOpen},
		"behind":       {refuse(412, "required index state not present"), provider.ErrProviderUnavailable, "", 2, service.StateOpen},
		"standby":      {refuse(473, ""), provider.ErrProviderUnavailable, "HTTP 473", 1, service.StateOpen},
		"no answer":    {func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }, provider.ErrProviderUnavailable, "", 2, service.StateOpen},
		"a page":       {func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { _, _ = io.WriteString(w, "<html>") }, provider.ErrProviderUnavailable, "check the address", 1, service.StateOpen},
		"another page": {func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { http.NotFound(w, nil) }, provider.ErrProviderUnavailable, "check the address", 1, service.StateOpen},
		"too long": {func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			_, _ = io.WriteString(w, strings.Repeat(" ", 2<<20))
		}, provider.ErrProviderUnavailable, "over", 1, service.StateOpen},
		"cut off": {func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "{")
		}, provider.ErrProviderUnavailable, "reading the answer", 2, service.StateOpen},
		"denied":    {refuse(403, "permission denied"), provider.ErrAccessDenied, "capabilities", 1, service.StateClosed},
		"no mount":  {refuse(404, "no handler for route \"x\""), provider.ErrKeyNotFound, "no transit engine is mounted", 1, service.StateClosed},
		"no key":    {refuse(400, "encryption key not found"), provider.ErrKeyNotFound, "there is no key", 1, service.StateClosed},
		"no method": {refuse(405, "unsupported operation"), provider.ErrKeyUsage, "", 1, service.StateClosed},
		"refused":   {refuse(400, "no"), nil, "HTTP 400: no", 1, service.StateClosed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var failing atomic.Bool
			var calls atomic.Int64
			p := open(t, between(t, c, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if calls.Add(1); failing.Load() {
					f.handle(w, r, next)
				} else {
					next.ServeHTTP(w, r)
				}
			}))
			made, err := p.GenerateDataKey(t.Context(), nil)
			require.NoError(t, err)
			defer made.Close()
			failing.Store(true)
			s := service.New(p, service.Config{})
			defer s.Close()
			times := outagesToOpen
			if f.tries > 1 && name != "sealed" {
				times = 2 // each pauses before it tries again
			}
			for i := range times {
				calls.Store(0)
				sentinel := f.sentinel
				if i%2 == 0 {
					_, err = s.GenerateDataKey(t.Context(), nil)
					if sentinel == nil {
						sentinel = provider.ErrEncryptionFailed
					}
				} else {
					_, err = s.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Size: 32})
					if sentinel == nil {
						sentinel = provider.ErrDecryptionFailed
					}
				}
				require.ErrorIs(t, err, sentinel)
				require.ErrorContains(t, err, f.text)
				require.NotContains(t, err.Error(), "\n")
				require.EqualValues(t, f.tries, calls.Load(), "MaxRetries is 1")
			}
			if times == outagesToOpen {
				require.Equal(t, f.state, s.State())
			}
		})
	}
}

func TestLies(t *testing.T) {
	b := newBao(t)
	c := b.createKey("app-data", nil)
	answer := func(data map[string]any) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, "/keys/") || strings.Contains(r.URL.Path, "/token/") {
				next.ServeHTTP(w, r)
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"data": data})
		}
	}
	short := base64.StdEncoding.EncodeToString(make([]byte, 31))
	whole := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for name, data := range map[string]map[string]any{
		"short data key": {"plaintext": short, "ciphertext": "vault:v1:AAAA"},
		"no data key":    {"ciphertext": "vault:v1:AAAA"},
		"no ciphertext":  {"plaintext": whole},
		"no prefix":      {"plaintext": whole, "ciphertext": "AAAA"},
		"long":           {"plaintext": whole, "ciphertext": "vault:v1:" + strings.Repeat("A", 1<<16)},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, between(t, c, answer(data)))
			_, err := p.GenerateDataKey(t.Context(), nil)
			require.ErrorIs(t, err, provider.ErrEncryptionFailed)
		})
	}
	p := open(t, c)
	sealed := seal(t, p, nil)
	require.ErrorIs(t, unseal(t, open(t, between(t, c, answer(map[string]any{"plaintext": short}))), sealed), provider.ErrDecryptionFailed)
	require.ErrorIs(t, unseal(t, open(t, between(t, c, answer(map[string]any{"plaintext": whole}))), sealed), provider.ErrDecryptionFailed)

	_, err := vault.NewProvider(t.Context(), between(t, c, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.URL.Path = strings.Replace(r.URL.Path, "/keys/app-data", "/keys/other", 1)
		next.ServeHTTP(w, r)
	}))
	require.ErrorIs(t, err, provider.ErrKeyNotFound)
}

func TestLatency(t *testing.T) {
	b := newBao(t)
	c := b.createKey("app-data", nil)
	c.MaxRetries, c.Timeout = 1, 2*time.Second
	var failing atomic.Bool
	p := open(t, between(t, c, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if failing.Load() {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return
		}
		next.ServeHTTP(w, r)
	}))
	failing.Store(true)
	_, err := p.GenerateDataKey(t.Context(), nil)
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
	require.False(t, errors.Is(err, context.DeadlineExceeded), "that is not the caller's deadline")

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = p.GenerateDataKey(ctx, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.False(t, errors.Is(err, provider.ErrProviderUnavailable))
}

// A process can start while the server is down.
func TestCheckLater(t *testing.T) {
	b := newBao(t)
	c := b.createKey("app-data", nil)
	c.MaxRetries = 1
	var up atomic.Bool
	c = between(t, c, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if up.Load() {
			next.ServeHTTP(w, r)
		} else {
			refuse(503, "Vault is sealed")(w, r, next)
		}
	})
	_, err := vault.NewProvider(t.Context(), c)
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
	require.ErrorContains(t, err, c.Address)
	c.CheckLater = true
	p := open(t, c)
	_, err = p.GenerateDataKey(t.Context(), nil)
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
	up.Store(true)
	require.NoError(t, provider.Check(t.Context(), p))
}

// No error shows a token, a data key or a plaintext.
func TestErrorsHoldNoSecret(t *testing.T) {
	b := newBao(t)
	c := b.createKey("app-data", nil)
	c.Token = b.policy(nil, b.forUse("app-data"))
	for _, status := range []int{400, 403, 404, 405, 500} {
		c := c
		c.MaxRetries = 1
		c.CheckLater = true
		p := open(t, between(t, c, refuse(status, "refused")))
		_, err := p.GenerateDataKey(t.Context(), nil)
		require.Error(t, err)
		require.NotContains(t, fmt.Sprintf("%v %+v", err, err), c.Token)
	}
}
