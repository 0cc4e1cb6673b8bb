package awskms_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// service is an AWS KMS that has three keys and an alias, and counts what it is asked about each.
type service struct {
	mu      sync.Mutex
	alias   string         // the key that alias/app has
	denied  string         // a key that the caller may not use
	decrypt map[string]int // calls of Decrypt by key
}

const keyARN = "arn:aws:kms:eu-west-1:111122223333:key/"

type sealed struct {
	Key       string
	Plaintext []byte
	Context   map[string]string
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var in struct {
		KeyId                     string
		Plaintext, CiphertextBlob []byte
		EncryptionContext         map[string]string
	}
	refuse := func(code string) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"__type":%q,"message":"refused"}`, code)
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		refuse("SerializationException")
		return
	}
	id := strings.TrimPrefix(in.KeyId, keyARN)
	if id == "alias/app" {
		id = s.alias
	}
	if !strings.Contains(" one two three ", " "+id+" ") {
		refuse("NotFoundException")
		return
	}
	if id == s.denied {
		refuse("AccessDeniedException")
		return
	}
	out := map[string]any{"KeyId": keyARN + id}
	switch _, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), "."); operation {
	case "DescribeKey":
		out = map[string]any{"KeyMetadata": map[string]any{"KeyId": id, "Arn": keyARN + id, "KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "SYMMETRIC_DEFAULT", "KeyState": "Enabled"}}
	case "GenerateDataKey":
		in.Plaintext = make([]byte, 32)
		_, _ = rand.Read(in.Plaintext)
		out["Plaintext"] = in.Plaintext
		fallthrough
	case "Encrypt":
		out["CiphertextBlob"], _ = json.Marshal(sealed{id, in.Plaintext, in.EncryptionContext})
	case "Decrypt":
		s.decrypt[id]++
		var blob sealed
		if json.Unmarshal(in.CiphertextBlob, &blob) != nil || blob.Key == id && !maps.Equal(blob.Context, in.EncryptionContext) {
			refuse("InvalidCiphertextException")
			return
		}
		if blob.Key != id {
			refuse("IncorrectKeyException")
			return
		}
		out["Plaintext"] = blob.Plaintext
	}
	_ = json.NewEncoder(w).Encode(out)
}

// asked returns the calls of Decrypt since it was last asked.
func (s *service) asked() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.decrypt
	s.decrypt = map[string]int{}
	return calls
}

func (s *service) provider(t *testing.T, url, keyID string, trusted ...string) *awskms.Provider {
	t.Helper()
	client := kms.New(kms.Options{Region: "eu-west-1", BaseEndpoint: aws.String(url), Credentials: credentials.NewStaticCredentialsProvider("k", "s", "")})
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: keyID, Client: client, TrustedKeys: trusted})
	require.NoError(t, err)
	return p
}

func start(t *testing.T) (*service, string) {
	t.Helper()
	s := &service{alias: "one", decrypt: map[string]int{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, server.URL
}

func TestEncryptUnderTheKeyThatARequestNames(t *testing.T) {
	s, url := start(t)
	p := s.provider(t, url, "one")
	for _, keyID := range []string{"two", keyARN + "two", "one", keyARN + "one", ""} {
		want := keyARN + "one"
		if strings.HasSuffix(keyID, "two") {
			want = keyARN + "two"
		}
		for _, plaintext := range []string{"short", strings.Repeat("long ", 2000)} {
			encrypted, err := p.Encrypt(t.Context(), &provider.EncryptRequest{Plaintext: plaintext, KeyID: keyID})
			require.NoError(t, err)
			require.Equal(t, want, encrypted.KeyID)
			for _, named := range []string{"", want, strings.TrimPrefix(want, keyARN)} {
				decrypted, err := p.Decrypt(t.Context(), &provider.DecryptRequest{Ciphertext: encrypted.Ciphertext, KeyID: named})
				require.NoError(t, err)
				require.Equal(t, plaintext, decrypted.Plaintext)
			}
		}

		var stored bytes.Buffer
		w, err := p.EncryptStream(t.Context(), &stored, &provider.EncryptRequest{KeyID: keyID})
		require.NoError(t, err)
		_, err = io.WriteString(w, "streamed")
		require.NoError(t, err)
		require.NoError(t, w.Close())
		require.Contains(t, stored.String(), want)
		s.asked()
		r, err := p.DecryptStream(t.Context(), &stored)
		require.NoError(t, err)
		plaintext, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, "streamed", string(plaintext))
		require.Equal(t, map[string]int{strings.TrimPrefix(want, keyARN): 1}, s.asked(), "a stream is one call of KMS")
	}
	_, err := p.Encrypt(t.Context(), &provider.EncryptRequest{Plaintext: "x", KeyID: "four"})
	require.ErrorIs(t, err, provider.ErrKeyNotFound)
	require.ErrorContains(t, err, "four")
}

func TestAnAliasThatIsMovedIsFollowed(t *testing.T) {
	s, url := start(t)
	p := s.provider(t, url, "three")
	first, err := p.Encrypt(t.Context(), &provider.EncryptRequest{Plaintext: "x", KeyID: "alias/app"})
	require.NoError(t, err)
	require.Equal(t, keyARN+"one", first.KeyID)
	s.mu.Lock()
	s.alias = "two"
	s.mu.Unlock()
	second, err := p.Encrypt(t.Context(), &provider.EncryptRequest{Plaintext: "x", KeyID: "alias/app"})
	require.NoError(t, err)
	require.Equal(t, keyARN+"two", second.KeyID)
	for _, text := range []string{first.Ciphertext, second.Ciphertext} {
		_, err := p.Decrypt(t.Context(), &provider.DecryptRequest{Ciphertext: text, KeyID: "alias/app"})
		require.NoError(t, err)
	}
}

// What a ciphertext or a request to decrypt names is not trusted for that, and KMS is not asked.
func TestDecryptAsksAboutTrustedKeysOnly(t *testing.T) {
	s, url := start(t)
	other := s.provider(t, url, "two")
	short, err := other.Encrypt(t.Context(), &provider.EncryptRequest{Plaintext: "short"})
	require.NoError(t, err)
	long, err := other.Encrypt(t.Context(), &provider.EncryptRequest{Plaintext: strings.Repeat("long ", 2000)})
	require.NoError(t, err)
	key, err := other.GenerateDataKey(t.Context(), &provider.GenerateDataKeyRequest{})
	require.NoError(t, err)
	defer key.Close()

	p := s.provider(t, url, "one")
	for range 2 {
		for _, keyID := range []string{"two", keyARN + "two", "alias/app"} {
			_, err := p.Decrypt(t.Context(), &provider.DecryptRequest{Ciphertext: short.Ciphertext, KeyID: keyID})
			require.ErrorIs(t, err, provider.ErrUntrustedKey)
		}
		_, err = p.Decrypt(t.Context(), &provider.DecryptRequest{Ciphertext: long.Ciphertext})
		require.ErrorIs(t, err, provider.ErrUntrustedKey)
		_, err = p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: key.EncryptedKey, Size: 32})
		require.ErrorIs(t, err, provider.ErrUntrustedKey)
		require.Empty(t, s.asked())
		_, err = p.Decrypt(t.Context(), &provider.DecryptRequest{Ciphertext: short.Ciphertext})
		require.ErrorIs(t, err, provider.ErrDecryptionFailed)
		require.Equal(t, map[string]int{"one": 1}, s.asked())
	}

	p = s.provider(t, url, "one", keyARN+"two")
	for _, text := range []string{short.Ciphertext, long.Ciphertext} {
		for _, keyID := range []string{"", "two", keyARN + "two"} {
			_, err := p.Decrypt(t.Context(), &provider.DecryptRequest{Ciphertext: text, KeyID: keyID})
			require.NoError(t, err)
		}
	}
	unwrapped, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: key.EncryptedKey, Size: 32})
	require.NoError(t, err)
	require.NoError(t, unwrapped.Close())
}

func TestAKeyThatIsDeniedDoesNotHideAnother(t *testing.T) {
	s, url := start(t)
	p := s.provider(t, url, "one", keyARN+"three")
	encrypted, err := p.Encrypt(t.Context(), &provider.EncryptRequest{Plaintext: "x", KeyID: "two"})
	require.NoError(t, err)
	s.mu.Lock()
	s.denied = "one"
	s.mu.Unlock()
	s.asked()
	_, err = p.Decrypt(t.Context(), &provider.DecryptRequest{Ciphertext: encrypted.Ciphertext})
	require.NoError(t, err)
	require.Equal(t, map[string]int{"two": 1}, s.asked(), "the newest key goes before older ones")
	_, err = p.Decrypt(t.Context(), &provider.DecryptRequest{Ciphertext: "AAAA"})
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)
	require.Equal(t, map[string]int{"two": 1}, s.asked(), "what is damaged is damaged under every key")
}

func TestTrustedKeysAreARNsOfKeys(t *testing.T) {
	for _, keyID := range []string{"", "two", "alias/app", "arn:aws:kms:eu-west-1:111122223333:alias/app", "arn:aws:kms:us-east-1:111122223333:key/two"} {
		_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: "one", Region: "eu-west-1", TrustedKeys: []string{keyID}})
		require.ErrorIs(t, err, provider.ErrInvalidKey)
		require.ErrorContains(t, err, "TrustedKeys")
	}
}
