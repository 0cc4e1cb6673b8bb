package adversary_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/ecdhwrap"
	"piko.sh/pikokms/internal/leftover"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/service"
)

// The process whose memory is read is one of its own, so that the keys by which it is searched are
// not in it. It is this test again, with these in its environment.
const (
	memoryKeyFile = "PIKOKMS_MEMORY_KEY_FILE" // of a local key
	memoryKMS     = "PIKOKMS_MEMORY_KMS"      // the endpoint of AWS KMS, a space and a key's ARN
)

// phase is what the process says about itself before it waits.
type phase struct {
	Name     string
	Masked   [][]byte // data keys in the order in which they were made
	Messages [][]byte // the messages of the first ones
}

const (
	memoryObjects = 20
	memoryCached  = 4 // data keys
)

// use encrypts and decrypts, and reports each phase to the parent, which then searches the memory.
func use(t *testing.T) {
	keys := new(leftover.Masking)
	if file := os.Getenv(memoryKeyFile); file != "" {
		p, err := local.NewProvider(local.Config{KeyFile: file})
		require.NoError(t, err)
		keys.EncryptionProvider = p
	} else {
		endpoint, arn, _ := strings.Cut(os.Getenv(memoryKMS), " ")
		client := kms.New(kms.Options{Region: kmstest.Region, BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")})
		p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: arn, Client: client})
		require.NoError(t, err)
		keys.EncryptionProvider = p
	}
	memory := adversary.NewMemory()
	h, err := pikokms.New(pikokms.WithStorage(memory), pikokms.WithCryptoProvider("k", keys), pikokms.WithDefaultCryptoProvider("k"),
		pikokms.WithDataKeyCache(service.CacheLimits{MaxMessages: 1, MaxKeys: memoryCached}))
	require.NoError(t, err)
	var messages [][]byte
	for i := range memoryObjects {
		name := fmt.Sprint(i)
		require.NoError(t, h.Put(t.Context(), name, strings.NewReader("content")))
		r, err := h.Get(t.Context(), name)
		require.NoError(t, err)
		_, err = io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		messages = append(messages, memory.Bytes(name))
	}
	// Strings have data keys of their own. So have signed messages, and those of several
	// recipients.
	text, err := h.Encrypt(t.Context(), strings.Repeat("large", 2000), nil)
	require.NoError(t, err)
	_, err = h.Decrypt(t.Context(), text, nil)
	require.NoError(t, err)
	for _, e := range []*message.Encrypter{{Keyring: keys, Suite: signedSuite}, {Keyring: keys, Recipients: []provider.Wrapper{newKey(t, 2, "second")}}} {
		sealed, err := e.Encrypt(t.Context(), []byte("text"), nil)
		require.NoError(t, err)
		_, _, err = (&message.Decrypter{Keyrings: []provider.Unwrapper{keys}}).Decrypt(t.Context(), sealed, nil)
		require.NoError(t, err)
	}
	tell := func(name string) { leftover.Tell(t, phase{name, keys.Masked(), messages}) }
	tell("cached") // the data keys of the last objects are in the cache, the others are evicted
	require.NoError(t, h.Close())
	if p, ok := keys.EncryptionProvider.(io.Closer); ok {
		tell("host closed")
		require.NoError(t, p.Close())
	}
	tell("closed")
}

// TestNoKeyStaysInMemory reads the whole memory of a process that has encrypted and decrypted, in
// search of data keys, of what is derived from them, and of the local key. Only what Go's own
// packages keep is there, and how much that is, is told: keys that crypto/aes has expanded, keys in
// the form that crypto/hmac has, and the last answers of KMS, and requests to it, in the buffers of
// net/http and of AWS's SDK. Built with GOEXPERIMENT=runtimesecret, only the last of these.
func TestNoKeyStaysInMemory(t *testing.T) {
	if os.Getenv(memoryKeyFile)+os.Getenv(memoryKMS) != "" {
		use(t)
		return
	}
	if race.Enabled {
		t.Skip("the race detector keeps memory")
	}
	t.Run("local key", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "key")
		require.NoError(t, local.Generate(file))
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
		require.NoError(t, err)
		observe(t, memoryKeyFile+"="+file, leftover.Secrets{"the local key": raw, "the local key as text": bytes.TrimSpace(text)}, nil)
	})
	t.Run("local EC key", func(t *testing.T) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		private, err := x509.MarshalPKCS8PrivateKey(key)
		require.NoError(t, err)
		public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		require.NoError(t, err)
		text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})...)
		file := filepath.Join(t.TempDir(), "key.pem")
		require.NoError(t, os.WriteFile(file, text, 0o600))
		observe(t, memoryKeyFile+"="+file, nil, func(wrapped header.EncryptedDataKey) leftover.Secrets { return agreed(t, key, wrapped) })
	})
	t.Run("HPKE key", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "key")
		require.NoError(t, local.GenerateHPKE(file, hpke.MLKEM768X25519()))
		observe(t, memoryKeyFile+"="+file, nil, nil)
	})
	for _, spec := range []string{"SYMMETRIC_DEFAULT", "ECC_NIST_P256"} {
		t.Run("AWS KMS, "+spec, func(t *testing.T) {
			server := kmstest.NewServer(t)
			observe(t, memoryKMS+"="+server.URL+" "+server.CreateKey(kmstest.Key{Spec: spec}).ARN, nil, nil)
		})
	}
}

// observe reads the memory of a process in each of its phases. local are secrets from the start,
// and wrapping returns, if it is not nil, those by which a data key is wrapped.
func observe(t *testing.T, environment string, local leftover.Secrets, wrapping func(header.EncryptedDataKey) leftover.Secrets) {
	process := leftover.Start(t, "TestNoKeyStaysInMemory", environment)
	for {
		var p phase
		process.Next(t, &p)
		secrets := leftover.Secrets{}
		maps.Copy(secrets, local)
		for i, masked := range p.Masked {
			dataKey := leftover.Mask(masked)
			secrets[fmt.Sprint("data key ", i)] = dataKey
			secrets[fmt.Sprint("data key as text ", i)] = []byte(base64.StdEncoding.EncodeToString(dataKey)[:40])
			if i < len(p.Messages) {
				h, _, err := header.Parse(p.Messages[i], header.Limits{})
				require.NoError(t, err)
				made := derived(t, dataKey, h)
				if wrapping != nil {
					maps.Copy(made, wrapping(h.EncryptedDataKeys[0]))
				}
				for name, s := range made {
					secrets[fmt.Sprint(name, " ", i)] = s
				}
			}
		}
		found := process.Search(t, secrets)
		counts := found.Counts(t, p.Name)
		for i := range p.Masked {
			for _, at := range found[fmt.Sprint("data key ", i)] {
				require.False(t, at.InCoreDump() && !at.Expanded, "a data key is where a core dump has it: %s", at.Area)
			}
		}
		switch p.Name {
		case "cached":
			for i := range memoryObjects {
				n := len(found[fmt.Sprintf("data key %d", i)])
				if i < memoryObjects-memoryCached {
					require.Zero(t, n, "data key %d, which is evicted: %v", i, found[fmt.Sprintf("data key %d", i)])
				}
			}
			require.NotZero(t, counts["data key"].Alone, "the search finds what is there")
		case "host closed":
			if local != nil {
				require.NotZero(t, counts["the local key"].Alone, "the search finds what is there")
			}
		case "closed":
			for kind, c := range counts {
				if kind == "data key as text" {
					// In the buffers of net/http, until the next answer, and in those of the request by
					// which AWS's SDK has KMS wrap a data key for a further recipient.
					require.Less(t, c.Alone, 10)
					continue
				}
				if !strings.HasSuffix(kind, "HMAC key") {
					require.Zero(t, c.Alone, "copies of %s: %v", kind, found)
				}
				if strings.Contains(runtime.Version(), "runtimesecret") {
					require.Zero(t, c.Alone+c.Expanded, "copies of %s that runtime/secret should have erased", kind)
				}
			}
			return
		}
		process.GoOn(t)
	}
}

// derived returns what HKDF makes of a data key for a message.
func derived(t *testing.T, dataKey []byte, h *header.Header) leftover.Secrets {
	t.Helper()
	prk, err := hkdf.Extract(sha512.New, dataKey, h.MessageID)
	require.NoError(t, err)
	key, err := hkdf.Expand(sha512.New, prk, string([]byte{byte(h.Suite >> 8), byte(h.Suite)})+"DERIVEKEY", 32)
	require.NoError(t, err)
	inner, outer := leftover.HMACKeys(prk)
	return leftover.Secrets{"pseudorandom key of HKDF": prk, "derived key": key, "inner HMAC key": inner, "outer HMAC key": outer}
}

// agreed returns what wraps a data key under an EC key: the secret of the agreement, and what is
// derived of it.
func agreed(t *testing.T, key *ecdsa.PrivateKey, wrapped header.EncryptedDataKey) leftover.Secrets {
	t.Helper()
	own, err := key.ECDH()
	require.NoError(t, err)
	parties, err := ecdhwrap.ParseInfo(wrapped.ProviderInfo)
	require.NoError(t, err)
	shared, err := own.ECDH(parties.Sender)
	require.NoError(t, err)
	inner, outer := leftover.HMACKeys(shared)
	return leftover.Secrets{"shared secret": shared, "inner shared HMAC key": inner, "outer shared HMAC key": outer}
}

// TestWithoutLockableMemory has a process that may lock no memory. It holds keys all the same, and
// says once that they may be swapped.
func TestWithoutLockableMemory(t *testing.T) {
	const child = "PIKOKMS_MEMORY_UNLOCKED"
	if os.Getenv(child) != "" {
		runtime.LockOSThread()
		require.NoError(t, syscall.Setrlimit(8, &syscall.Rlimit{})) // RLIMIT_MEMLOCK
		// Root may lock whatever the limit says, so this thread gives that capability up.
		head := [2]uint32{0x20080522, 0}
		var capabilities [6]uint32
		_, _, errno := syscall.RawSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&capabilities)), 0)
		require.Zero(t, errno)
		var keys []*provider.SecureBytes
		for range 200 { // several pages
			key := make([]byte, 32)
			_, _ = rand.Read(key) // never fails
			s, err := provider.NewSecureBytes(key)
			require.NoError(t, err)
			keys = append(keys, s)
		}
		for _, s := range keys {
			require.NoError(t, s.Close())
		}
		p, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{1}, 32)})
		require.NoError(t, err)
		sealed, err := (&message.Encrypter{Keyring: p}).Encrypt(t.Context(), []byte("text"), nil)
		require.NoError(t, err)
		_, _, err = (&message.Decrypter{Keyrings: []provider.Unwrapper{p}}).Decrypt(t.Context(), sealed, nil)
		require.NoError(t, err)
		return
	}
	command := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	command.Env = append(os.Environ(), child+"=1")
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, 1, strings.Count(string(out), "can't be locked"), "%s", out)
}
