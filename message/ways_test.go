package message_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/gcm"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newKey returns a local key whose bytes are all the seed.
func newKey(t testing.TB, seed byte, name string) provider.Provider {
	t.Helper()
	p, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{seed}, 32), Name: name})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// counting counts the calls of a keyring, and keeps the plain keys that went through it.
type counting struct {
	provider.Keyring
	generated, wrapped, unwrapped atomic.Int32
	mu                            sync.Mutex
	keys                          []*provider.SecureBytes
}

func (c *counting) keep(key *provider.SecureBytes) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys = append(c.keys, key)
}

func (c *counting) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	c.generated.Add(1)
	key, err := c.Keyring.GenerateDataKey(ctx, encryptionContext)
	if err == nil {
		c.keep(key.PlaintextKey)
	}
	return key, err
}

func (c *counting) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	c.wrapped.Add(1)
	c.keep(key)
	return c.Keyring.WrapDataKey(ctx, key, encryptionContext)
}

func (c *counting) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	c.unwrapped.Add(1)
	key, err := c.Keyring.UnwrapDataKey(ctx, request)
	if err == nil {
		c.keep(key.PlaintextKey)
	}
	return key, err
}

// requireClosed checks that no plain key outlives the call that used it.
func (c *counting) requireClosed(t *testing.T, want int) {
	t.Helper()
	require.Len(t, c.keys, want)
	for _, key := range c.keys {
		require.ErrorIs(t, key.WithAccess(func([]byte) error { return nil }), provider.ErrClosed)
	}
}

// maxFrameLength is the longest frame that is written, and that is read by default.
const maxFrameLength = 64 << 20

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8)*31 + byte(i)*7 + 1
	}
	return b
}

// serialise returns a header as its fields are now, with the tag that it had.
func serialise(t testing.TB, h header.Header) []byte {
	t.Helper()
	aead, _, err := header.AES256GCMHKDFSHA512CommitKey.DeriveKeys(make([]byte, 32), make([]byte, 32))
	require.NoError(t, err)
	tag := bytes.Clone(h.Bytes()[h.Size()-gcm.TagSize:])
	require.NoError(t, h.Seal(aead, nil))
	return append(bytes.Clone(h.Bytes()[:h.Size()-len(tag)]), tag...)
}

func encrypt(t testing.TB, e *message.Encrypter, plaintext []byte, encryptionContext map[string]string) []byte {
	t.Helper()
	sealed, err := e.Encrypt(context.Background(), plaintext, encryptionContext)
	require.NoError(t, err)
	return sealed
}

// unwrappers returns the halves of keyrings that decrypt.
func unwrappers(keyrings []provider.Keyring) []provider.Unwrapper {
	halves := make([]provider.Unwrapper, len(keyrings))
	for i, k := range keyrings {
		halves[i] = k
	}
	return halves
}

// wrappers returns the halves of keyrings that encrypt.
func wrappers(keyrings []provider.Keyring) []provider.Wrapper {
	halves := make([]provider.Wrapper, len(keyrings))
	for i, k := range keyrings {
		halves[i] = k
	}
	return halves
}

func decrypter(keyrings ...provider.Keyring) *message.Decrypter {
	return &message.Decrypter{Keyrings: unwrappers(keyrings)}
}

// encryptWays and decryptWays are every public door of each direction. They return what came out
// before an error, too. The piece is the number of bytes that are read or written at once.
var encryptWays = map[string]func(ctx context.Context, e *message.Encrypter, src io.Reader, encryptionContext map[string]string, piece int) ([]byte, error){
	"Reader": func(ctx context.Context, e *message.Encrypter, src io.Reader, encryptionContext map[string]string, piece int) ([]byte, error) {
		r, err := e.NewReader(ctx, src, encryptionContext)
		if err != nil {
			return nil, err
		}
		return readBy(r, piece)
	},
	"WriteTo": func(ctx context.Context, e *message.Encrypter, src io.Reader, encryptionContext map[string]string, _ int) ([]byte, error) {
		r, err := e.NewReader(ctx, src, encryptionContext)
		if err != nil {
			return nil, err
		}
		var out bytes.Buffer
		n, err := r.WriteTo(&out)
		return out.Bytes(), checkCount(n, out.Len(), err)
	},
	"Read then WriteTo": func(ctx context.Context, e *message.Encrypter, src io.Reader, encryptionContext map[string]string, piece int) ([]byte, error) {
		r, err := e.NewReader(ctx, src, encryptionContext)
		if err != nil {
			return nil, err
		}
		first := make([]byte, piece)
		n, err := r.Read(first)
		if err != nil {
			return first[:n], err
		}
		out := bytes.NewBuffer(first[:n])
		_, err = r.WriteTo(out)
		return out.Bytes(), err
	},
	"Write": func(ctx context.Context, e *message.Encrypter, src io.Reader, encryptionContext map[string]string, piece int) ([]byte, error) {
		var out bytes.Buffer
		w, err := e.NewWriter(ctx, &out, encryptionContext)
		if err != nil {
			return nil, err
		}
		if err := copyBy(w, src, piece); err != nil {
			return out.Bytes(), err
		}
		err = w.Close()
		return out.Bytes(), err
	},
	"ReadFrom": func(ctx context.Context, e *message.Encrypter, src io.Reader, encryptionContext map[string]string, _ int) ([]byte, error) {
		var out bytes.Buffer
		w, err := e.NewWriter(ctx, &out, encryptionContext)
		if err != nil {
			return nil, err
		}
		size := remaining(src)
		n, err := w.ReadFrom(src)
		if err := checkCount(n, size, err); err != nil {
			return out.Bytes(), err
		}
		err = w.Close()
		return out.Bytes(), err
	},
}

var decryptWays = map[string]func(ctx context.Context, d *message.Decrypter, src io.Reader, required map[string]string, piece int) ([]byte, error){
	"Reader": func(ctx context.Context, d *message.Decrypter, src io.Reader, required map[string]string, piece int) ([]byte, error) {
		r, err := d.NewReader(ctx, src, required)
		if err != nil {
			return nil, err
		}
		return readBy(r, piece)
	},
	"WriteTo": func(ctx context.Context, d *message.Decrypter, src io.Reader, required map[string]string, _ int) ([]byte, error) {
		r, err := d.NewReader(ctx, src, required)
		if err != nil {
			return nil, err
		}
		var out bytes.Buffer
		n, err := r.WriteTo(&out)
		return out.Bytes(), checkCount(n, out.Len(), err)
	},
	"Write": func(ctx context.Context, d *message.Decrypter, src io.Reader, required map[string]string, piece int) ([]byte, error) {
		var out bytes.Buffer
		w := d.NewWriter(ctx, &out, required)
		if err := copyBy(w, src, piece); err != nil {
			return out.Bytes(), err
		}
		err := w.Close()
		return out.Bytes(), err
	},
	"ReadFrom": func(ctx context.Context, d *message.Decrypter, src io.Reader, required map[string]string, _ int) ([]byte, error) {
		var out bytes.Buffer
		w := d.NewWriter(ctx, &out, required)
		size := remaining(src)
		n, err := w.(io.ReaderFrom).ReadFrom(src)
		if err != nil {
			return out.Bytes(), errors.Join(err, shouldFail(w.Close(), err))
		}
		if err := checkCount(n, size, nil); err != nil {
			return out.Bytes(), err
		}
		err = w.Close()
		return out.Bytes(), err
	},
}

// shouldFail checks that Close returns the stream's failure, once and again.
func shouldFail(got, failure error) error {
	if !errors.Is(got, failure) {
		return fmt.Errorf("Close returns %v after %w", got, failure)
	}
	return nil
}

// remaining returns how many bytes a source in memory holds, or -1.
func remaining(src io.Reader) int {
	if memory, ok := src.(interface{ Len() int }); ok {
		return memory.Len()
	}
	return -1
}

// checkCount checks the count of a stream that did not fail, unless want is -1.
func checkCount(n int64, want int, err error) error {
	if err == nil && want >= 0 && n != int64(want) {
		return errors.New("the count is not that of the bytes")
	}
	return err
}

func readBy(r io.Reader, piece int) ([]byte, error) {
	var got []byte
	p := make([]byte, piece)
	for {
		n, err := r.Read(p)
		got = append(got, p[:n]...)
		if err == io.EOF {
			return got, nil
		}
		if err != nil {
			return got, err
		}
	}
}

// copyBy copies by Read and Write alone, piece bytes at once.
func copyBy(w io.Writer, r io.Reader, piece int) error {
	p := make([]byte, piece)
	for {
		n, err := r.Read(p)
		if n > 0 {
			if _, err := w.Write(p[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Pull ways have a source that only reads, and once more one as it is, which may be in memory.
func init() {
	type onlyReader struct{ io.Reader }
	for name, way := range maps.Clone(encryptWays) {
		encryptWays[name] = func(ctx context.Context, e *message.Encrypter, src io.Reader, encryptionContext map[string]string, piece int) ([]byte, error) {
			return way(ctx, e, onlyReader{src}, encryptionContext, piece)
		}
		if strings.HasPrefix(name, "Read") || name == "WriteTo" {
			encryptWays[name+" of the source itself"] = way
		}
	}
	for name, way := range maps.Clone(decryptWays) {
		decryptWays[name] = func(ctx context.Context, d *message.Decrypter, src io.Reader, required map[string]string, piece int) ([]byte, error) {
			return way(ctx, d, onlyReader{src}, required, piece)
		}
		if strings.HasPrefix(name, "Read") || name == "WriteTo" {
			decryptWays[name+" of the source itself"] = way
		}
	}
}
