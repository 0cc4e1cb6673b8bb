package adversary_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var messages = flag.Int("adversary.messages", 100_000, "how many changed messages TestChangedMessages makes (a twentieth under the race detector)")

const (
	frameLength = 64
	signedSuite = header.AES256GCMHKDFSHA512CommitKeyECDSAP384
)

func newKey(t testing.TB, seed byte, name string) provider.Provider {
	t.Helper()
	p, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{seed}, 32), Name: name})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func pattern(seed byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8)*31 + byte(i)*7 + seed
	}
	return b
}

// family is messages under one key, of which parts can be spliced.
type family struct {
	name     string
	open     *message.Decrypter
	messages []*adversary.Message
}

func (f *family) add(t testing.TB, sealed, plaintext []byte) {
	t.Helper()
	m, err := adversary.Split(sealed, plaintext)
	require.NoError(t, err)
	require.Equal(t, sealed, slices.Concat(m.Head, slices.Concat(m.Frames...), m.Footer))
	f.messages = append(f.messages, m)
}

// families are messages of ours, signed and not, and those of AWS's SDKs for every suite.
func families(t testing.TB) []*family {
	t.Helper()
	key := newKey(t, 1, "")
	open := &message.Decrypter{Keyrings: []provider.Unwrapper{key}}
	ours := map[string]*message.Encrypter{
		"ours":                 {Keyring: key, FrameLength: frameLength},
		"ours, two recipients": {Keyring: key, FrameLength: frameLength, Recipients: []provider.Wrapper{newKey(t, 2, "second")}},
		"ours, signed":         {Keyring: key, FrameLength: frameLength, Suite: signedSuite},
	}
	var all []*family
	for name, e := range ours {
		f := &family{name: name, open: open}
		for i, size := range []int{0, 1, 63, 64, 65, 200, 320, 331} {
			var pairs map[string]string
			if i%2 == 0 {
				pairs = map[string]string{"tenant": "acme", "z": fmt.Sprint(i)}
			}
			plaintext := pattern(byte(i), size)
			sealed, err := e.Encrypt(t.Context(), plaintext, pairs)
			require.NoError(t, err)
			f.add(t, sealed, plaintext)
		}
		all = append(all, f)
	}
	folder := filepath.Join("..", "..", "testdata", "vectors")
	for _, suite := range header.Suites() {
		text, err := os.ReadFile(filepath.Join(folder, "aes-256.key"))
		require.NoError(t, err)
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
		require.NoError(t, err)
		p, err := local.NewProvider(local.Config{Key: raw, Namespace: "vectors", Name: "key"})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, p.Close()) })
		d := &message.Decrypter{Keyrings: []provider.Unwrapper{p}, CommitmentPolicy: message.RequireEncryptAllowDecrypt}
		f := &family{name: fmt.Sprintf("AWS's, suite %04x", uint16(suite)), open: d}
		names, err := filepath.Glob(filepath.Join(folder, fmt.Sprintf("%04x-aes-256-*.msg", uint16(suite))))
		require.NoError(t, err)
		for _, name := range names {
			sealed, err := os.ReadFile(name)
			require.NoError(t, err)
			plaintext, _, err := d.Decrypt(t.Context(), sealed, nil)
			if err != nil {
				continue // one with required pairs
			}
			f.add(t, sealed, plaintext)
		}
		require.NotEmpty(t, f.messages, suite)
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b *family) int { return strings.Compare(a.name, b.name) })
	return all
}

// doors are the ways in which a message is opened. They return what was released before an error,
// too.
var doors = []struct {
	name string
	open func(ctx context.Context, d *message.Decrypter, sealed []byte, piece int) ([]byte, error)
}{
	{"Decrypt", func(ctx context.Context, d *message.Decrypter, sealed []byte, _ int) ([]byte, error) {
		plaintext, _, err := d.Decrypt(ctx, sealed, nil)
		return plaintext, err
	}},
	{"Reader", func(ctx context.Context, d *message.Decrypter, sealed []byte, piece int) ([]byte, error) {
		r, err := d.NewReader(ctx, &adversary.Source{Rest: sealed, Piece: piece, Ending: adversary.Ending{Err: io.EOF}}, nil)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(struct{ io.Reader }{r})
	}},
	{"WriteTo", func(ctx context.Context, d *message.Decrypter, sealed []byte, _ int) ([]byte, error) {
		r, err := d.NewReader(ctx, bytes.NewReader(sealed), nil)
		if err != nil {
			return nil, err
		}
		var out bytes.Buffer
		_, err = r.WriteTo(&out)
		return out.Bytes(), err
	}},
	{"Writer", func(ctx context.Context, d *message.Decrypter, sealed []byte, piece int) ([]byte, error) {
		var out bytes.Buffer
		w := d.NewWriter(ctx, &out, nil)
		for part := range slices.Chunk(sealed, piece) {
			if _, err := w.Write(part); err != nil {
				_ = w.Close() // returns the same error
				return out.Bytes(), err
			}
		}
		err := w.Close()
		return out.Bytes(), err
	}},
	{"ReadFrom", func(ctx context.Context, d *message.Decrypter, sealed []byte, piece int) ([]byte, error) {
		var out bytes.Buffer
		w := d.NewWriter(ctx, &out, nil)
		if _, err := w.(io.ReaderFrom).ReadFrom(&adversary.Source{Rest: sealed, Piece: piece, Ending: adversary.Ending{Err: io.EOF}}); err != nil {
			_ = w.Close() // returns the same error
			return out.Bytes(), err
		}
		err := w.Close()
		return out.Bytes(), err
	}},
	{"Open", func(ctx context.Context, d *message.Decrypter, sealed []byte, piece int) ([]byte, error) {
		r, err := d.Open(ctx, bytes.NewReader(sealed), int64(len(sealed)), nil)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	}},
}

// TestChangedMessages opens messages that were changed in every way that needs no key. None opens,
// and no byte is released that is not of the original.
func TestChangedMessages(t *testing.T) {
	total := *messages
	if race.Enabled {
		total /= 20
	}
	if testing.Short() {
		total /= 10
	}
	all := families(t)
	for _, f := range all {
		for _, m := range f.messages {
			for _, door := range doors {
				if got, err := door.open(t.Context(), f.open, m.Sealed, 50); err == nil {
					require.True(t, bytes.Equal(m.Plaintext, got), "%s by %s, unchanged", f.name, door.name)
				} else {
					require.Equal(t, "Open", door.name, "%s: %v", f.name, err) // signed or unframed
				}
			}
		}
	}
	var (
		mu      sync.Mutex
		byKind  = make(map[string]int)
		workers sync.WaitGroup
		turn    atomic.Int64
		refused atomic.Int64
	)
	for seed := range uint64(4) {
		workers.Go(func() {
			r := rand.New(rand.NewPCG(16, seed))
			counts := make(map[string]int)
			for turn.Add(1) <= int64(total) && !t.Failed() {
				f := all[r.IntN(len(all))]
				m, other := f.messages[r.IntN(len(f.messages))], f.messages[r.IntN(len(f.messages))]
				kind, changed := m.Mutate(r, other)
				counts[kind.Name]++
				tried := doors
				if r.IntN(8) > 0 { // mostly one door, sometimes all
					at := r.IntN(len(doors))
					tried = doors[at : at+1]
				}
				for _, door := range tried {
					got, err := door.open(context.Background(), f.open, changed, 1+r.IntN(100))
					if err == nil {
						t.Errorf("%s, %s, by %s: accepted: %x", f.name, kind.Name, door.name, changed)
						return
					}
					refused.Add(1)
					if !released(f, changed, got) {
						t.Errorf("%s, %s, by %s: %d bytes released that nobody encrypted", f.name, kind.Name, door.name, len(got))
						return
					}
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for name, n := range counts {
				byKind[name] += n
			}
		})
	}
	workers.Wait()
	sum := 0
	for _, kind := range adversary.Kinds {
		t.Logf("%-52s %8d", kind.Name, byKind[kind.Name])
		require.NotZero(t, byKind[kind.Name])
		sum += byKind[kind.Name]
	}
	t.Logf("%d changed messages, %d refusals, 0 accepted", sum, refused.Load())
	require.Equal(t, total, sum)
}

// released reports whether got is a beginning of the message whose header the changed one has.
func released(f *family, changed, got []byte) bool {
	if len(got) == 0 {
		return true
	}
	for _, m := range f.messages {
		if bytes.HasPrefix(changed, m.Head) {
			return bytes.HasPrefix(m.Plaintext, got)
		}
	}
	return false
}
