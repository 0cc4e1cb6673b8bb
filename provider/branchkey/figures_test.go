//go:build unix

package branchkey_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha512"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/local"
)

// full reports whether the figures of docs/notes/PERFORMANCE.md are measured. Otherwise few
// messages have to do.
func full() bool { return os.Getenv("PIKOKMS_FIGURES") == "1" }

// processorTime returns the time that this process has had processors, so that other processes on a
// busy machine do not count.
func processorTime(t *testing.T) time.Duration {
	var usage syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// TestManyMessagesUnderTenantsKeys counts the calls of KMS for many small messages, and measures
// them beside messages under a local key, and beside the cryptography that a message of one frame
// can't do without.
func TestManyMessagesUnderTenantsKeys(t *testing.T) {
	const tenants, size = 100, 100 // size of a message in bytes
	messages := 1_000
	if full() {
		messages = 1_000_000
	}
	s := newTestStore(t)
	pairs := make([]map[string]string, tenants)
	for i := range pairs {
		pairs[i] = map[string]string{"tenant": create(t, s.Store)}
	}
	s.kms.Reset()
	branch := newProvider(t, s.Store, branchkey.Config{Supplier: branchkey.ByPair("tenant")})
	key, err := local.NewProvider(local.Config{Key: make([]byte, 32)})
	require.NoError(t, err)
	defer key.Close()
	plaintext := make([]byte, size)

	// Batches in turn, so that all see the same machine.
	var took [5]time.Duration
	const batch = 500
	stored := make([][]byte, batch)
	for done := 0; done < messages; done += batch {
		for i, p := range []provider.Keyring{branch, key} {
			e, d := message.Encrypter{Keyring: p}, message.Decrypter{Keyrings: []provider.Unwrapper{p}}
			begin := processorTime(t)
			for j := range stored {
				if stored[j], err = e.Encrypt(t.Context(), plaintext, pairs[j%tenants]); err != nil {
					t.Fatal(err)
				}
			}
			took[2*i] += processorTime(t) - begin
			begin = processorTime(t)
			for _, m := range stored {
				if _, _, err = d.Decrypt(t.Context(), m, nil); err != nil {
					t.Fatal(err)
				}
			}
			took[2*i+1] += processorTime(t) - begin
		}
		begin := processorTime(t)
		for range batch {
			floor(t, plaintext)
		}
		took[4] += processorTime(t) - begin
	}
	require.Equal(t, tenants, s.kms.Calls(""), "one call for each tenant, to write and to read")
	rate := func(i int) string { return fmt.Sprintf("%.0f", float64(messages)/took[i].Seconds()) }
	t.Logf("%d messages of %d bytes written and read under %d tenants' branch keys: %d calls of KMS in a TTL; written and read in a second of one core: branch keys %s and %s, local key %s and %s; HKDF and AES alone %s",
		messages, size, tenants, s.kms.Calls(""), rate(0), rate(1), rate(2), rate(3), rate(4))
}

// floor does what encrypting a message of one frame can't do without: HKDF-SHA-512 for two keys,
// the AES key schedule, and AES-GCM for header and frame.
func floor(t *testing.T, plaintext []byte) {
	var dataKey, salt [32]byte
	_, _ = rand.Read(dataKey[:])
	_, _ = rand.Read(salt[:])
	secret, err := hkdf.Extract(sha512.New, dataKey[:], salt[:])
	require.NoError(t, err)
	derived, err := hkdf.Expand(sha512.New, secret, "\x04\x78DERIVEKEY", 32)
	require.NoError(t, err)
	_, err = hkdf.Expand(sha512.New, secret, "COMMITKEY", 32)
	require.NoError(t, err)
	block, err := aes.NewCipher(derived)
	require.NoError(t, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(t, err)
	var iv [12]byte
	aead.Seal(nil, iv[:], nil, salt[:])
	iv[11] = 1
	aead.Seal(nil, iv[:], plaintext, salt[:])
}

// TestObjectsMoveWithTheirBranchKey moves many objects to another KMS key by moving their branch
// key, and measures that beside rewrapping each.
func TestObjectsMoveWithTheirBranchKey(t *testing.T) {
	objects := 100
	if full() {
		objects = 100_000
	}
	s := newTestStore(t)
	ctx := t.Context()
	id := create(t, s.Store)
	p := newProvider(t, s.Store, branchkey.Config{BranchKeyID: id})
	stored := make([][]byte, objects)
	for i := range stored {
		stored[i] = seal(t, p, fmt.Sprint("object ", i), nil)
	}

	b := s.kms.CreateKey(kmstest.Key{})
	store := s.open(t, awskms.Config{KeyID: b.ARN, TrustedKeys: []string{s.key.ARN}})
	s.kms.Reset()
	items := 0
	begin := time.Now()
	require.NoError(t, store.Move(ctx, id, func(moved, _ int) { items = moved }))
	took, calls := time.Since(begin), s.kms.Calls("")
	require.Equal(t, 3, items)
	require.Equal(t, 3, calls)
	require.NoError(t, store.Check(ctx, id))

	s.kms.SetState(s.key.ARN, "Disabled")
	s.kms.Reset()
	moved := newProvider(t, s.open(t, awskms.Config{KeyID: b.ARN}), branchkey.Config{BranchKeyID: id})
	begin = time.Now()
	for i, m := range stored {
		got, err := open(ctx, moved, m)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint("object ", i), got)
	}
	opened := time.Since(begin)
	require.Equal(t, 1, s.kms.Calls(""))

	// The same objects directly under a KMS key, each rewrapped under another.
	under := func(keyARN string) provider.Provider {
		p, err := awskms.NewProvider(ctx, awskms.Config{KeyID: keyARN, Endpoint: s.kms.URL})
		require.NoError(t, err)
		return p
	}
	from, to := under(b.ARN), under(s.kms.CreateKey(kmstest.Key{}).ARN)
	direct := make([][]byte, objects/10)
	for i := range direct {
		direct[i] = seal(t, from, fmt.Sprint("object ", i), nil)
	}
	s.kms.Reset()
	begin = time.Now()
	for _, m := range direct {
		r, err := message.Rewrap(ctx, bytes.NewReader(m), &message.Decrypter{Keyrings: []provider.Unwrapper{from}}, &message.Encrypter{Keyring: to}, nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, r)
		require.NoError(t, err)
	}
	rewrapped := time.Since(begin)
	t.Logf("%d objects moved to another KMS key: %d items of the table, %d calls of KMS, %v; with the old key disabled, all opened in %v with 1 call; rewrapping a tenth of as many in memory, with a KMS that answers at once: %d calls of KMS, %v",
		objects, items, calls, took.Round(10*time.Microsecond), opened.Round(time.Millisecond), s.kms.Calls(""), rewrapped.Round(time.Millisecond))
}
