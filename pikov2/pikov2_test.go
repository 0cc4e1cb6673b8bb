package pikov2_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/pikov2"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pattern is the plaintext of testdata.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i/251)
	}
	return b
}

// localKey is the key of testdata.
func localKey() []byte {
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	return key
}

func newLocal(t testing.TB, key []byte) provider.Provider {
	t.Helper()
	p, err := local.NewProvider(local.Config{Key: key})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// fake unwraps a single text to a key, and records the keys that it returned.
type fake struct {
	provider.Keyring
	kind    provider.Type
	wrapped string
	key     []byte
	err     error
	asked   int
	given   []*provider.SecureBytes
}

func (f *fake) Type() provider.Type { return f.kind }

func (f *fake) UnwrapPikoV2(_ context.Context, wrapped string) (*provider.SecureBytes, error) {
	f.asked++
	if f.err != nil {
		return nil, f.err
	}
	if wrapped != f.wrapped {
		return nil, fmt.Errorf("%w: fake", provider.ErrDecryptionFailed)
	}
	key, err := provider.NewSecureBytes(bytes.Clone(f.key))
	f.given = append(f.given, key)
	return key, err
}

// kms is a keyring of the made-up KMS stream in testdata.
func kms() *fake {
	key := localKey()
	for i := range key {
		key[i] ^= 0xff
	}
	return &fake{kind: "aws_kms", wrapped: base64.StdEncoding.EncodeToString([]byte("a ciphertext blob")), key: key}
}

func vector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return b
}

// ways are all doors; they return what came out before an error, too.
var ways = map[string]func(io.Reader) ([]byte, error){
	"Read":             func(r io.Reader) ([]byte, error) { return io.ReadAll(struct{ io.Reader }{r}) },
	"Read by one byte": func(r io.Reader) ([]byte, error) { return io.ReadAll(iotest.OneByteReader(r)) },
	"WriteTo": func(r io.Reader) ([]byte, error) {
		var out bytes.Buffer
		n, err := io.Copy(&out, r)
		if int(n) != out.Len() {
			return nil, fmt.Errorf("WriteTo says %d bytes, it wrote %d", n, out.Len())
		}
		return out.Bytes(), err
	},
	"Read, then WriteTo": func(r io.Reader) ([]byte, error) {
		start := make([]byte, 5)
		n, err := io.ReadFull(r, start)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return start[:n], err
		}
		out := bytes.NewBuffer(start[:n])
		_, err = io.Copy(out, r)
		return out.Bytes(), err
	},
}

func read(src io.Reader, keyrings ...provider.Unwrapper) ([]byte, error) {
	r, err := pikov2.NewReader(context.Background(), src, keyrings)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// streamOf lays a stream out by hand.
func streamOf(header string, chunks ...[]byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{2}, uint32(len(header)))
	b = append(b, header...)
	for _, c := range chunks {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(c))), c...)
	}
	return b
}

func headerOf(iv string) string {
	return `{"key_id":"local-default","provider":"local_aes_gcm","iv":"` + iv + `","algorithm":"AES-256-GCM","version":2}`
}

const someIV = "AAAAAAAAAAAAAAAA"

func seal(t testing.TB, key []byte, iv string, plaintext []byte, size int) [][]byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	require.NoError(t, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(t, err)
	base, err := base64.StdEncoding.DecodeString(iv)
	require.NoError(t, err)
	var chunks [][]byte
	for number := uint32(0); len(plaintext) > 0; number++ {
		n := min(size, len(plaintext))
		chunks = append(chunks, aead.Seal(nil, binary.BigEndian.AppendUint32(bytes.Clone(base[:8]), number), plaintext[:n], nil))
		plaintext = plaintext[n:]
	}
	return chunks
}

func TestStreamsOfPiko(t *testing.T) {
	p := newLocal(t, localKey())
	for name, size := range map[string]int{"local-0": 0, "local-1": 1, "local-65537": 65537, "local-chunks-of-16": 40, "kms-chunks-of-16": 40} {
		for way, run := range ways {
			k := kms()
			stored := vector(t, name+".bin")
			require.True(t, pikov2.Sniff(stored))
			require.False(t, header.Sniff(stored))
			r, err := pikov2.NewReader(t.Context(), bytes.NewReader(stored), []provider.Unwrapper{p, k})
			require.NoError(t, err, name)
			got, err := run(r)
			require.NoError(t, err, "%s, %s", name, way)
			require.True(t, bytes.Equal(pattern(size), got), "%s, %s", name, way)
			_, err = r.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
			for _, key := range k.given {
				require.ErrorIs(t, key.WithAccess(func([]byte) error { return nil }), provider.ErrClosed, "the data key is left open")
			}
			if name == "kms-chunks-of-16" {
				require.Equal(t, 1, k.asked)
			} else {
				require.Zero(t, k.asked, "a keyring of another kind was asked")
			}
		}
	}
}

// TestStreamsOfPikoBySum lays streams out by hand, proves by their sums that they are Piko's, and
// reads them.
func TestStreamsOfPikoBySum(t *testing.T) {
	var streams []struct {
		Size       int
		IV, SHA256 string
	}
	require.NoError(t, json.Unmarshal(vector(t, "local.json"), &streams))
	require.Len(t, streams, 6)
	p := newLocal(t, localKey())
	for _, s := range streams {
		stored := streamOf(headerOf(s.IV), seal(t, localKey(), s.IV, pattern(s.Size), 65536)...)
		sum := sha256.Sum256(stored)
		require.Equal(t, s.SHA256, hex.EncodeToString(sum[:]), s.Size)
		for way, run := range ways {
			r, err := pikov2.NewReader(t.Context(), iotest.DataErrReader(bytes.NewReader(stored)), []provider.Unwrapper{p})
			require.NoError(t, err)
			got, err := run(r)
			require.NoError(t, err, way)
			require.True(t, bytes.Equal(pattern(s.Size), got), way)
		}
	}
}

func TestSniff(t *testing.T) {
	require.True(t, pikov2.Sniff([]byte{2, 0}))
	for _, b := range []string{"", "\x02", "\x02\x04", "\x02\x05", "\x02\x01", "\x01\x80", "\x01\x00", "\x00\x02"} {
		require.False(t, pikov2.Sniff([]byte(b)), "%x", b)
	}
}

func TestChangedStreams(t *testing.T) {
	p := newLocal(t, localKey())
	stored := vector(t, "local-chunks-of-16.bin")
	bodyStart := 5 + int(binary.BigEndian.Uint32(stored[1:]))
	const step = 4 + 16 + 16
	chunk := func(i int) []byte { return stored[bodyStart+i*step : min(bodyStart+(i+1)*step, len(stored))] }
	join := func(parts ...[]byte) []byte { return bytes.Join(append([][]byte{stored[:bodyStart]}, parts...), nil) }

	t.Run("any bit", func(t *testing.T) {
		for i := range stored {
			for bit := range 8 {
				changed := bytes.Clone(stored)
				changed[i] ^= 1 << bit
				got, err := read(bytes.NewReader(changed), p)
				if err == nil {
					require.Less(t, i, bodyStart, "byte %d", i)
					require.Equal(t, pattern(40), got)
					continue
				}
				require.True(t, errors.Is(err, provider.ErrDecryptionFailed) || errors.Is(err, provider.ErrInvalidCiphertext) || errors.Is(err, provider.ErrUntrustedKey), "%v", err)
				require.True(t, bytes.HasPrefix(pattern(40), got), "changed plaintext was released")
			}
		}
	})
	t.Run("cut", func(t *testing.T) {
		for n := range stored {
			got, err := read(bytes.NewReader(stored[:n]), p)
			if n >= bodyStart && (n-bodyStart)%step == 0 {
				require.NoError(t, err, "the format can't tell")
				require.Equal(t, string(pattern((n-bodyStart)/step*16)), string(got))
				continue
			}
			require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
			if n > 0 {
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			}
			require.Equal(t, string(pattern(max(0, (n-bodyStart)/step*16))), string(got))
		}
	})
	for name, s := range map[string]struct {
		stored []byte
		want   error
		got    int
	}{
		"chunks swapped": {join(chunk(1), chunk(0), chunk(2)), provider.ErrDecryptionFailed, 0},
		"chunk left out": {join(chunk(0), chunk(2)), provider.ErrDecryptionFailed, 16},
		"chunk repeated": {join(chunk(0), chunk(1), chunk(1), chunk(2)), provider.ErrDecryptionFailed, 32},
		"chunk of another stream": {join(chunk(0), streamOf("", seal(t, localKey(), someIV, pattern(40), 16)...)[5+step:]),
			provider.ErrDecryptionFailed, 16},
		"bytes behind the end": {append(bytes.Clone(stored), "more bytes"...), provider.ErrInvalidCiphertext, 40},
		"zeros behind the end": {append(bytes.Clone(stored), 0, 0, 0, 0), provider.ErrInvalidCiphertext, 40},
	} {
		t.Run(name, func(t *testing.T) {
			for way, run := range ways {
				r, err := pikov2.NewReader(t.Context(), bytes.NewReader(s.stored), []provider.Unwrapper{p})
				require.NoError(t, err)
				got, err := run(r)
				require.ErrorIs(t, err, s.want, way)
				require.Equal(t, string(pattern(s.got)), string(got), way)
				n, again := r.Read(make([]byte, 100))
				require.Zero(t, n)
				require.Equal(t, err, again, "the error does not stay")
			}
		})
	}
}

func TestKeyrings(t *testing.T) {
	own, other := newLocal(t, localKey()), newLocal(t, bytes.Repeat([]byte{9}, 32))
	short := newLocal(t, bytes.Repeat([]byte{9}, 16))
	ofLocal, ofKMS := vector(t, "local-chunks-of-16.bin"), vector(t, "kms-chunks-of-16.bin")
	changed := bytes.Clone(ofLocal)
	changed[len(changed)-1] ^= 1
	unavailable := &fake{kind: "aws_kms", err: provider.ErrProviderUnavailable}
	shortKey := kms()
	shortKey.key = shortKey.key[:16]
	closed, err := local.NewProvider(local.Config{Key: localKey()})
	require.NoError(t, err)
	require.NoError(t, closed.Close())

	for name, s := range map[string]struct {
		stored   []byte
		keyrings []provider.Unwrapper
		want     error
	}{
		"own key":                          {ofLocal, []provider.Unwrapper{own}, nil},
		"another key":                      {ofLocal, []provider.Unwrapper{other}, provider.ErrDecryptionFailed},
		"own key second":                   {ofLocal, []provider.Unwrapper{short, other, own, other}, nil},
		"own key second, changed":          {changed, []provider.Unwrapper{other, own, other}, provider.ErrDecryptionFailed},
		"key of 16 bytes":                  {ofLocal, []provider.Unwrapper{short}, provider.ErrInvalidKey},
		"closed":                           {ofLocal, []provider.Unwrapper{closed}, provider.ErrClosed},
		"none":                             {ofLocal, nil, provider.ErrUntrustedKey},
		"another kind":                     {ofLocal, []provider.Unwrapper{kms()}, provider.ErrUntrustedKey},
		"that can't":                       {ofLocal, []provider.Unwrapper{struct{ provider.Keyring }{own}}, provider.ErrUntrustedKey},
		"KMS":                              {ofKMS, []provider.Unwrapper{own, kms()}, nil},
		"KMS second":                       {ofKMS, []provider.Unwrapper{unavailable, kms()}, nil},
		"KMS unavailable":                  {ofKMS, []provider.Unwrapper{unavailable, own}, provider.ErrProviderUnavailable},
		"KMS gives a data key of 16 bytes": {ofKMS, []provider.Unwrapper{shortKey}, provider.ErrInvalidKey},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := read(bytes.NewReader(s.stored), s.keyrings...)
			if s.want == nil {
				require.NoError(t, err)
				require.Equal(t, pattern(40), got)
				return
			}
			require.ErrorIs(t, err, s.want)
		})
	}
	last := kms()
	_, err = read(bytes.NewReader(ofKMS), kms(), last)
	require.NoError(t, err)
	require.Zero(t, last.asked, "the key service was asked though the data key was there")
}

func TestBadHeaders(t *testing.T) {
	p := newLocal(t, localKey())
	edk := strings.Replace(headerOf(someIV), `"algorithm"`, `"edk":"AAAA","algorithm"`, 1)
	for name, s := range map[string]struct {
		stored string
		says   string
	}{
		"empty":                   {"", "empty"},
		"another format":          {"PK\x03\x04", "does not begin"},
		"SDK message":             {"\x02\x05\x78\x00\x00\x00", "does not begin"},
		"header too long":         {"\x02\x00\x10\x00\x01{", "1048577 bytes"},
		"header of no bytes":      {"\x02\x00\x00\x00\x00", "0 bytes"},
		"no JSON":                 {string(streamOf(`{"key_id"`)), "JSON"},
		"JSON and more":           {string(streamOf(headerOf(someIV) + "x")), "JSON"},
		"another type":            {string(streamOf(`{"version":"SENTINEL"}`)), "JSON"},
		"no IV":                   {string(streamOf(headerOf(""))), "iv"},
		"short IV":                {string(streamOf(headerOf("AAAAAAAAAAAAAAA="))), "iv"},
		"IV not base64":           {string(streamOf(headerOf("*"))), "iv"},
		"another version":         {string(streamOf(strings.Replace(headerOf(someIV), `:2}`, `:3}`, 1))), "version 3"},
		"another algorithm":       {string(streamOf(strings.Replace(headerOf(someIV), `256`, `128`, 1))), `"AES-128-GCM"`},
		"local with a data key":   {string(streamOf(edk)), "no wrapped data key"},
		"chunk of no bytes":       {string(streamOf(headerOf(someIV), nil)), "0 bytes"},
		"chunk shorter than tag":  {string(streamOf(headerOf(someIV), make([]byte, 15))), "15 bytes"},
		"chunk longer than bound": {string(streamOf(headerOf(someIV))) + "\x00\xa0\x00\x01", "10485761 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := read(strings.NewReader(s.stored), p)
			require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
			require.ErrorContains(t, err, s.says)
			require.NotContains(t, err.Error(), "SENTINEL")
			require.NotErrorIs(t, err, io.ErrUnexpectedEOF)
		})
	}
	long := strings.Replace(headerOf(someIV), "local_aes_gcm", strings.Repeat("x", 1e5), 1)
	_, err := read(bytes.NewReader(streamOf(long)), p)
	require.ErrorIs(t, err, provider.ErrUntrustedKey)
	require.Less(t, len(err.Error()), 1000, "the header is quoted at any length")
}

// TestEmptyChunks reads chunks without plaintext, which Piko does not write but takes.
func TestEmptyChunks(t *testing.T) {
	block, err := aes.NewCipher(localKey())
	require.NoError(t, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(t, err)
	iv := make([]byte, 12)
	first := aead.Seal(nil, iv, nil, nil)
	iv[11] = 1
	second := aead.Seal(nil, iv, []byte("text"), nil)
	got, err := read(bytes.NewReader(streamOf(headerOf(someIV), first, second)), newLocal(t, localKey()))
	require.NoError(t, err)
	require.Equal(t, "text", string(got))
}

// TestLargestChunk has chunks around the sizes at which the buffer grows, up to the bound.
func TestLargestChunk(t *testing.T) {
	race.SkipShort(t)
	p := newLocal(t, localKey())
	plaintext := pattern(10<<20 - 16)
	for _, size := range []int{65536, 65537, 131072 + 15, 131072 + 16, 131072 + 17, len(plaintext)} {
		got, err := read(bytes.NewReader(streamOf(headerOf(someIV), seal(t, localKey(), someIV, plaintext, size)...)), p)
		require.NoError(t, err)
		require.True(t, bytes.Equal(plaintext, got))
	}
}

func TestStatedLengthsAllocateNothing(t *testing.T) {
	p := newLocal(t, localKey())
	for name, stored := range map[string][]byte{
		"header": []byte("\x02\x00\x10\x00\x00{"),
		"chunk":  append(streamOf(headerOf(someIV)), 0, 0xa0, 0, 0, 'x'),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := read(bytes.NewReader(stored), p)
		runtime.ReadMemStats(&after)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, name)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(256<<10), name)
	}
}

// sink is io.Discard without its ReadFrom.
type sink struct{ n int64 }

func (s *sink) Write(p []byte) (int, error) {
	s.n += int64(len(p))
	return len(p), nil
}

func TestConstantMemory(t *testing.T) {
	p := newLocal(t, localKey())
	stored := streamOf(headerOf(someIV), seal(t, localKey(), someIV, pattern(32<<20), 65536)...)
	var before, after runtime.MemStats
	var out sink
	runtime.ReadMemStats(&before)
	r, err := pikov2.NewReader(t.Context(), bytes.NewReader(stored), []provider.Unwrapper{p})
	require.NoError(t, err)
	_, err = io.Copy(&out, r)
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	require.EqualValues(t, 32<<20, out.n)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(256<<10))
	require.Less(t, after.Mallocs-before.Mallocs, uint64(256), "an allocation by the chunk")
}

// TestBrokenSource has sources that fail after n bytes with the very error of a cut stream.
func TestBrokenSource(t *testing.T) {
	p := newLocal(t, localKey())
	stored := vector(t, "local-chunks-of-16.bin")
	for n := range len(stored) + 1 {
		for _, broken := range []error{io.ErrUnexpectedEOF, io.ErrClosedPipe} {
			for name, src := range map[string]io.Reader{
				"for ever":        io.MultiReader(bytes.NewReader(stored[:n]), iotest.ErrReader(broken)),
				"once":            &failsOnce{rest: stored[:n], err: broken},
				"once, with data": &failsOnce{rest: stored[:n], err: broken, withData: true},
			} {
				got, err := read(src, p)
				require.Equal(t, broken, err, "%s after %d bytes", name, n)
				require.True(t, bytes.HasPrefix(pattern(40), got))
			}
		}
	}
	_, err := read(io.MultiReader(bytes.NewReader(stored[:10]), stuck{}), p)
	require.Equal(t, io.ErrNoProgress, err)
	for _, n := range []int{-1, 1 << 30} {
		_, err = read(lying(n), p)
		require.ErrorContains(t, err, "the source says")
	}
	got, err := read(iotest.OneByteReader(bytes.NewReader(stored)), p)
	require.NoError(t, err)
	require.Equal(t, pattern(40), got)
}

// failsOnce fails behind its bytes, or with the last ones, and then says that it has ended.
type failsOnce struct {
	rest     []byte
	err      error
	withData bool
}

func (f *failsOnce) Read(p []byte) (int, error) {
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	if len(f.rest) > 0 || n > 0 && !f.withData {
		return n, nil
	}
	err := f.err
	f.err = io.EOF
	return n, err
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

type lying int

func (n lying) Read([]byte) (int, error) { return int(n), nil }

func TestContextEndsTheStream(t *testing.T) {
	stored := vector(t, "kms-chunks-of-16.bin")
	ctx, cancel := context.WithCancel(t.Context())
	r, err := pikov2.NewReader(ctx, bytes.NewReader(stored), []provider.Unwrapper{kms()})
	require.NoError(t, err)
	_, err = io.ReadFull(r, make([]byte, 10))
	require.NoError(t, err)
	cancel()
	got, err := io.ReadAll(r)
	require.Equal(t, context.Canceled, err)
	require.Len(t, got, 6, "the rest of the verified chunk")

	_, err = pikov2.NewReader(ctx, bytes.NewReader(stored), []provider.Unwrapper{kms()})
	require.ErrorIs(t, err, context.Canceled)
	ctx, cancel = context.WithCancel(t.Context())
	key := kms()
	_, err = pikov2.NewReader(ctx, bytes.NewReader(stored), []provider.Unwrapper{cancelling{&fake{kind: key.kind, err: context.Canceled}, cancel}, key})
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, key.asked, "a key service was asked after the context's end")
}

type cancelling struct {
	*fake
	cancel func()
}

func (c cancelling) UnwrapPikoV2(ctx context.Context, wrapped string) (*provider.SecureBytes, error) {
	c.cancel()
	return c.fake.UnwrapPikoV2(ctx, wrapped)
}

// taking takes n bytes in all.
type taking struct {
	w io.Writer
	n int
	e error
}

func (w *taking) Write(p []byte) (int, error) {
	n, _ := w.w.Write(p[:min(w.n, len(p))])
	w.n -= n
	if n < len(p) {
		return n, w.e
	}
	return n, nil
}

// TestDestinationFails goes on elsewhere where a destination failed, without a loss.
func TestDestinationFails(t *testing.T) {
	p := newLocal(t, localKey())
	full := errors.New("full")
	for n := range 40 {
		for e, want := range map[error]error{full: full, nil: io.ErrShortWrite} {
			r, err := pikov2.NewReader(t.Context(), bytes.NewReader(vector(t, "local-chunks-of-16.bin")), []provider.Unwrapper{p})
			require.NoError(t, err)
			var out bytes.Buffer
			written, err := io.Copy(&taking{&out, n, e}, r)
			require.Equal(t, want, err)
			require.EqualValues(t, n, written)
			rest, err := io.ReadAll(r)
			require.NoError(t, err)
			require.Equal(t, pattern(40), append(out.Bytes(), rest...))
		}
	}
}
