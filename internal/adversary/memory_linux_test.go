package adversary_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/adversary"
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

// masking keeps a masked copy of each data key that goes through a provider.
type masking struct {
	provider.EncryptionProvider
	mu     sync.Mutex
	masked [][]byte
}

func mask(key []byte) []byte {
	masked := make([]byte, len(key))
	for i, b := range key {
		masked[i] = ^b
	}
	return masked
}

func (m *masking) note(key *provider.SecureBytes) error {
	return key.WithAccess(func(plain []byte) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.masked = append(m.masked, mask(plain))
		return nil
	})
}

func (m *masking) GenerateDataKey(ctx context.Context, request *provider.GenerateDataKeyRequest) (*provider.DataKey, error) {
	made, err := m.EncryptionProvider.GenerateDataKey(ctx, request)
	if err == nil {
		err = m.note(made.PlaintextKey)
	}
	return made, err
}

func (m *masking) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	if err := m.note(key); err != nil {
		return header.EncryptedDataKey{}, err
	}
	return m.EncryptionProvider.WrapDataKey(ctx, key, encryptionContext)
}

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

// use encrypts and decrypts, and tells its phases to the parent, which looks at the memory in each.
func use(t *testing.T) {
	keys := new(masking)
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
	for _, e := range []*message.Encrypter{{Keyring: keys, Suite: signedSuite}, {Keyring: keys, Recipients: []provider.Keyring{newKey(t, 2, "second")}}} {
		sealed, err := e.Encrypt(t.Context(), []byte("text"), nil)
		require.NoError(t, err)
		_, _, err = (&message.Decrypter{Keyrings: []provider.Keyring{keys}}).Decrypt(t.Context(), sealed, nil)
		require.NoError(t, err)
	}
	tell := func(name string) {
		for range 3 {
			runtime.GC()
		}
		require.NoError(t, json.NewEncoder(os.Stdout).Encode(phase{name, keys.masked, messages}))
		_, err := os.Stdin.Read(make([]byte, 1))
		require.NoError(t, err)
	}
	tell("cached") // the data keys of the last objects are in the cache, the others are evicted
	require.NoError(t, h.Close())
	if p, ok := keys.EncryptionProvider.(io.Closer); ok {
		tell("host closed")
		require.NoError(t, p.Close())
	}
	tell("closed")
}

// victim is the process under observation.
type victim struct {
	*exec.Cmd
	in  io.Writer
	out *bufio.Reader
}

func newVictim(t *testing.T, environment string) *victim {
	t.Helper()
	v := &victim{Cmd: exec.Command(os.Args[0], "-test.run", "^TestNoKeyStaysInMemory$")}
	v.Env = append(os.Environ(), environment)
	v.Stderr = os.Stderr
	var err error
	v.in, err = v.StdinPipe()
	require.NoError(t, err)
	out, err := v.StdoutPipe()
	require.NoError(t, err)
	v.out = bufio.NewReader(out)
	require.NoError(t, v.Start())
	t.Cleanup(func() {
		_ = v.Process.Kill()
		_ = v.Wait() // it was killed
	})
	return v
}

func (v *victim) next(t *testing.T) phase {
	t.Helper()
	line, err := v.out.ReadBytes('\n')
	require.NoError(t, err, "%s", line)
	var p phase
	require.NoError(t, json.Unmarshal(line, &p), "%s", line)
	return p
}

func (v *victim) goOn(t *testing.T) {
	t.Helper()
	_, err := v.in.Write([]byte{'\n'})
	require.NoError(t, err)
}

// place is where a secret was found.
type place struct {
	area     string // as in /proc/PID/maps
	flags    string // VmFlags of /proc/PID/smaps
	expanded bool   // the secret begins an expanded AES key, as crypto/aes has it
}

// search finds all copies of secrets in the memory of a process, those in freed memory, too.
func search(t *testing.T, pid int, secrets map[string][]byte) map[string][]place {
	t.Helper()
	smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		t.Skip("the memory of a process can't be read here:", err)
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Skip("the memory of a process can't be read here:", err)
	}
	defer memory.Close()
	names := make(map[string][]string) // by the first 8 bytes
	var begins [1 << 16]bool           // what the first 2 bytes can be
	for name, s := range secrets {
		begins[int(s[0])<<8|int(s[1])] = true
		names[string(s[:8])] = append(names[string(s[:8])], name)
	}
	found := make(map[string][]place)
	var from, to int64
	var area string
	for line := range strings.Lines(string(smaps)) {
		var a, b int64
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &a, &b, &mode); n == 3 {
			from, to, area = a, b, strings.TrimSpace(line)
			if !strings.HasPrefix(mode, "rw") {
				from, to = 0, 0
			}
			continue
		}
		flags, last := strings.CutPrefix(line, "VmFlags:")
		if !last || from == to {
			continue
		}
		buf := make([]byte, to-from)
		n, _ := memory.ReadAt(buf, from) // what the system does not show is not there
		buf = buf[:n]
		for at := 0; at+8 <= n; at++ {
			if !begins[int(buf[at])<<8|int(buf[at+1])] {
				continue
			}
			for _, name := range names[string(buf[at:at+8])] {
				s := secrets[name]
				if !bytes.HasPrefix(buf[at:], s) {
					continue
				}
				expanded := len(s) == 32 && bytes.HasPrefix(buf[at+32:], thirdRoundKey(s))
				found[name] = append(found[name], place{area, strings.TrimSpace(flags), expanded})
			}
		}
	}
	return found
}

// thirdRoundKey returns the first 4 bytes after the key in an AES-256 key that is expanded (FIPS
// 197, section 5.2).
func thirdRoundKey(key []byte) []byte {
	b := []byte{substitute(key[29]) ^ 1, substitute(key[30]), substitute(key[31]), substitute(key[28])}
	for i := range b {
		b[i] ^= key[i]
	}
	return b
}

// substitute is the S-box of AES (FIPS 197, section 5.1.1).
func substitute(x byte) byte {
	inverse := byte(1)
	for range 254 { // x to the power 254
		inverse = multiply(inverse, x)
	}
	y := inverse
	for i := 1; i <= 4; i++ {
		y ^= inverse<<i | inverse>>(8-i)
	}
	return y ^ 0x63
}

func multiply(a, b byte) (p byte) {
	for range 8 {
		if b&1 != 0 {
			p ^= a
		}
		carry := a&0x80 != 0
		a <<= 1
		if carry {
			a ^= 0x1b
		}
		b >>= 1
	}
	return p
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
		observe(t, memoryKeyFile+"="+file, map[string][]byte{"the local key": raw, "the local key as text": bytes.TrimSpace(text)})
	})
	t.Run("AWS KMS", func(t *testing.T) {
		server := kmstest.NewServer(t)
		observe(t, memoryKMS+"="+server.URL+" "+server.CreateKey(kmstest.Key{}).ARN, nil)
	})
}

func observe(t *testing.T, environment string, local map[string][]byte) {
	v := newVictim(t, environment)
	for {
		p := v.next(t)
		secrets := make(map[string][]byte)
		for name, s := range local {
			secrets[name] = s
		}
		for i, masked := range p.Masked {
			dataKey := mask(masked)
			secrets[fmt.Sprint("data key ", i)] = dataKey
			secrets[fmt.Sprint("data key as text ", i)] = []byte(base64.StdEncoding.EncodeToString(dataKey)[:40])
			if i < len(p.Messages) {
				for name, s := range derived(t, dataKey, p.Messages[i]) {
					secrets[fmt.Sprint(name, " ", i)] = s
				}
			}
		}
		found := search(t, v.Process.Pid, secrets)
		counts := make(map[string][2]int) // alone, expanded
		for name, places := range found {
			kind := strings.TrimRight(name, " 0123456789")
			c := counts[kind]
			for _, at := range places {
				if at.expanded {
					c[1]++
				} else {
					c[0]++
				}
				if kind == "data key" && !at.expanded {
					require.Contains(t, " "+at.flags+" ", " dd ", "a data key is where a core dump has it: %s", at.area)
				}
			}
			counts[kind] = c
		}
		for kind, c := range counts {
			t.Logf("%-12s %-24s %3d copies, and %3d expanded for AES by crypto/aes", p.Name, kind, c[0], c[1])
		}
		switch p.Name {
		case "cached":
			for i := range memoryObjects {
				n := len(found[fmt.Sprintf("data key %d", i)])
				if i < memoryObjects-memoryCached {
					require.Zero(t, n, "data key %d, which is evicted: %v", i, found[fmt.Sprintf("data key %d", i)])
				}
			}
			require.NotZero(t, counts["data key"][0], "the search finds what is there")
		case "host closed":
			require.NotZero(t, counts["the local key"][0], "the search finds what is there")
		case "closed":
			for kind, c := range counts {
				if kind == "data key as text" {
					// In the buffers of net/http, until the next answer, and in those of the request by
					// which AWS's SDK has KMS wrap a data key for a further recipient.
					require.Less(t, c[0], 10)
					continue
				}
				if !strings.HasSuffix(kind, "HMAC key") {
					require.Zero(t, c[0], "copies of %s: %v", kind, found)
				}
				if strings.Contains(runtime.Version(), "runtimesecret") {
					require.Zero(t, c[0]+c[1], "copies of %s that runtime/secret should have erased", kind)
				}
			}
			return
		}
		v.goOn(t)
	}
}

// derived returns what HKDF makes of a data key for a message.
func derived(t *testing.T, dataKey, sealed []byte) map[string][]byte {
	t.Helper()
	h, _, err := header.Parse(sealed, header.Limits{})
	require.NoError(t, err)
	prk, err := hkdf.Extract(sha512.New, dataKey, h.MessageID)
	require.NoError(t, err)
	key, err := hkdf.Expand(sha512.New, prk, string([]byte{byte(h.Suite >> 8), byte(h.Suite)})+"DERIVEKEY", 32)
	require.NoError(t, err)
	secrets := map[string][]byte{
		"pseudorandom key of HKDF": prk, "derived key": key,
	}
	for name, pad := range map[string]byte{"inner HMAC key": 0x36, "outer HMAC key": 0x5c} {
		padded := bytes.Clone(prk)
		for i := range padded {
			padded[i] ^= pad
		}
		secrets[name] = padded
	}
	return secrets
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
		_, _, err = (&message.Decrypter{Keyrings: []provider.Keyring{p}}).Decrypt(t.Context(), sealed, nil)
		require.NoError(t, err)
		return
	}
	command := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	command.Env = append(os.Environ(), child+"=1")
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, 1, strings.Count(string(out), "can't be locked"), "%s", out)
}
