package pikokms_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

func newLocal(t testing.TB, name string, fill byte) provider.Provider {
	t.Helper()
	p, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{fill}, 32), Name: name})
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// fixture is a host on a folder, with the folder in sight.
type fixture struct {
	*pikokms.Host
	dir    string
	folder *folderstorage.Storage
}

func newFixture(t testing.TB, options ...pikokms.Option) fixture {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "objects")
	folder, err := folderstorage.New(dir)
	require.NoError(t, err)
	t.Cleanup(func() { _ = folder.Close() })
	host, err := pikokms.New(append([]pikokms.Option{
		pikokms.WithCryptoProvider("local", newLocal(t, "local", 1)),
		pikokms.WithDefaultCryptoProvider("local"),
		pikokms.WithStorage(folder),
	}, options...)...)
	require.NoError(t, err)
	return fixture{host, dir, folder}
}

func (f fixture) stored(t testing.TB, key string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(f.dir, filepath.FromSlash(key)))
	require.NoError(t, err)
	return b
}

// files lists every file under the folder, whatever its name.
func (f fixture) files(t testing.TB) []string {
	t.Helper()
	var names []string
	require.NoError(t, filepath.WalkDir(f.dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && path != f.dir {
			names = append(names, entry.Name())
		}
		return err
	}))
	return names
}

func get(t testing.TB, s pikokms.Storage, key string) (string, error) {
	t.Helper()
	r, err := s.Get(t.Context(), key)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(r)
	require.NoError(t, r.Close())
	return string(b), err
}

func keys(t testing.TB, s pikokms.Storage, prefix string) []string {
	t.Helper()
	var all []string
	for key, err := range s.List(t.Context(), prefix) {
		require.NoError(t, err)
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}

func TestUploadsAreEncryptedWithNoGlue(t *testing.T) {
	secret := strings.Repeat("the application's secret. ", 10_000)
	for _, enabled := range [][]string{nil, {"zstd"}, {"gzip"}, {"s2"}} {
		t.Run(strings.Join(enabled, "+"), func(t *testing.T) {
			f := newFixture(t, pikokms.WithEnabledTransformers(enabled...))
			require.Equal(t, append(enabled, "crypto-service"), f.Transformers())

			// What an application sees is a storage.
			var storage pikokms.Storage = f.Host
			require.NoError(t, storage.Put(t.Context(), "a/b/object.txt", strings.NewReader(secret)))
			got, err := get(t, storage, "a/b/object.txt")
			require.NoError(t, err)
			require.Equal(t, secret, got)

			stored := f.stored(t, "a/b/object.txt")
			require.NotContains(t, string(stored), "secret")
			h, _, err := header.Parse(stored, header.Limits{})
			require.NoError(t, err)
			want := map[string]string{provider.PairUse: provider.UseObject}
			if enabled != nil {
				want[pikokms.PairTransformers] = enabled[0]
			}
			require.Equal(t, want, h.EncryptionContext)
			if enabled != nil {
				require.Less(t, len(stored), len(secret)/10)
			}

			require.Equal(t, []string{"a/b/object.txt"}, keys(t, storage, "a/"))
			require.NoError(t, storage.Delete(t.Context(), "a/b/object.txt"))
			_, err = get(t, storage, "a/b/object.txt")
			require.ErrorIs(t, err, fs.ErrNotExist)
			require.ErrorIs(t, storage.Delete(t.Context(), "a/b/object.txt"), fs.ErrNotExist)
		})
	}
}

func TestObjectAloneTellsItsChain(t *testing.T) {
	written := newFixture(t, pikokms.WithEnabledTransformers("zstd"), pikokms.WithTransformer(upper{}), pikokms.WithEnabledTransformers("upper"))
	require.Equal(t, []string{"upper", "zstd", "crypto-service"}, written.Transformers(), "sorted by priority")
	require.NoError(t, written.Put(t.Context(), "object", strings.NewReader("content")))

	reader := func(options ...pikokms.Option) *pikokms.Host {
		host, err := pikokms.New(append([]pikokms.Option{
			pikokms.WithCryptoProvider("any name", newLocal(t, "local", 1)),
			pikokms.WithDefaultCryptoProvider("any name"),
			pikokms.WithStorage(written.folder),
		}, options...)...)
		require.NoError(t, err)
		return host
	}
	got, err := get(t, reader(pikokms.WithTransformer(upper{}), pikokms.WithEnabledTransformers("gzip")), "object")
	require.NoError(t, err)
	require.Equal(t, "CONTENT", got, "reversed by what the object says, not by what the host writes")

	_, err = get(t, reader(), "object")
	require.ErrorIs(t, err, pikokms.ErrUnknownTransformer)
	require.ErrorContains(t, err, `"upper"`)

	// The chain is authenticated: another name in the header is refused before any transformer sees
	// a byte.
	stored := written.stored(t, "object")
	changed := bytes.Replace(stored, []byte("upper,zstd"), []byte("upper,gzip"), 1)
	require.NotEqual(t, stored, changed)
	require.NoError(t, written.folder.Put(t.Context(), "object", bytes.NewReader(changed)))
	_, err = get(t, written, "object")
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)
}

// upper is a lossy custom transformer before compression.
type upper struct{}

func (upper) Name() string                  { return "upper" }
func (upper) Type() pikokms.TransformerType { return pikokms.TransformerCustom }
func (upper) Priority() int                 { return 50 }

func (upper) Transform(_ context.Context, input io.Reader, _ any) (io.Reader, error) {
	b, err := io.ReadAll(input)
	return bytes.NewReader(bytes.ToUpper(b)), err
}

func (upper) Reverse(_ context.Context, input io.Reader, _ any) (io.Reader, error) { return input, nil }

func TestFailedUploadLeavesNothingBehind(t *testing.T) {
	for _, enabled := range [][]string{nil, {"zstd"}} {
		f := newFixture(t, pikokms.WithEnabledTransformers(enabled...))
		require.NoError(t, f.Put(t.Context(), "kept", strings.NewReader("first")))
		before := f.files(t)
		for _, broken := range []error{errors.New("mine"), io.ErrUnexpectedEOF} {
			for _, key := range []string{"kept", "new/folder/object"} {
				err := f.Put(t.Context(), key, io.MultiReader(io.LimitReader(zeros{}, 1<<20), iotest.ErrReader(broken)))
				require.ErrorIs(t, err, broken)
				require.ErrorContains(t, err, key)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		err := f.Put(ctx, "kept", io.MultiReader(io.LimitReader(zeros{}, 1<<20), readerFunc(func([]byte) (int, error) { cancel(); return 0, nil }), zeros{}))
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, before, f.files(t))
		got, err := get(t, f, "kept")
		require.NoError(t, err)
		require.Equal(t, "first", got)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) {
	n, err := f(p)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func TestDamagedObjects(t *testing.T) {
	f := newFixture(t, pikokms.WithEnabledTransformers("zstd"))
	require.NoError(t, f.Put(t.Context(), "object", strings.NewReader(strings.Repeat("content", 1000))))
	stored := f.stored(t, "object")
	for _, n := range []int{header.SniffSize, len(stored) / 2, len(stored) - 1} {
		require.NoError(t, f.folder.Put(t.Context(), "cut", bytes.NewReader(stored[:n])))
		_, err := get(t, f, "cut")
		require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
	}
	require.NoError(t, f.folder.Put(t.Context(), "longer", bytes.NewReader(append(bytes.Clone(stored), 0))))
	_, err := get(t, f, "longer")
	require.ErrorIs(t, err, provider.ErrDecryptionFailed, "the decompressor reads to the end, so the trailing byte is seen")
}

func TestPlaintextObjects(t *testing.T) {
	for _, content := range []string{"", "abc", "an object from before encryption"} {
		f := newFixture(t)
		require.NoError(t, f.folder.Put(t.Context(), "old", strings.NewReader(content)))
		_, err := get(t, f, "old")
		require.ErrorIs(t, err, pikokms.ErrPlaintext)
		require.ErrorContains(t, err, "AllowPlaintext")

		f = newFixture(t, pikokms.AllowPlaintext())
		require.NoError(t, f.folder.Put(t.Context(), "old", strings.NewReader(content)))
		got, err := get(t, f, "old")
		require.NoError(t, err)
		require.Equal(t, content, got)
		require.NoError(t, f.Put(t.Context(), "new", strings.NewReader("content")))
		require.True(t, header.Sniff(f.stored(t, "new")), "what is written is encrypted all the same")
	}
}

func TestBoundObjectNames(t *testing.T) {
	public, private := newRSAPair(t)
	pair, err := local.NewProvider(local.Config{Key: append(public, private...), Name: "rsa"})
	require.NoError(t, err)
	for name, p := range map[string]provider.Provider{"AES": newLocal(t, "aes", 1), "RSA": pair} {
		t.Run(name, func(t *testing.T) {
			options := []pikokms.Option{pikokms.WithCryptoProvider("p", p), pikokms.WithDefaultCryptoProvider("p")}
			bound := newFixture(t, append(options, pikokms.BindObjectName("invoices"), pikokms.WithEnabledTransformers("zstd"))...)
			for _, key := range []string{"a/1.pdf", "a/2.pdf"} {
				require.NoError(t, bound.Put(t.Context(), key, strings.NewReader("content of "+key)))
				content, err := get(t, bound, key)
				require.NoError(t, err)
				require.Equal(t, "content of "+key, content)
				require.NotContains(t, string(bound.stored(t, key)), "pdf")
				require.NotContains(t, string(bound.stored(t, key)), "invoices")
			}
			require.NoError(t, os.Rename(filepath.Join(bound.dir, "a", "1.pdf"), filepath.Join(bound.dir, "a", "2.pdf")))
			_, err := bound.Get(t.Context(), "a/2.pdf")
			require.ErrorIs(t, err, provider.ErrContextMismatch)
			require.ErrorIs(t, err, provider.ErrDecryptionFailed)

			// With the names stated, anyone with the key can read it.
			d := message.Decrypter{Keyrings: []provider.Unwrapper{p}}
			_, context, err := d.Decrypt(t.Context(), bound.stored(t, "a/2.pdf"), map[string]string{pikokms.PairBucket: "invoices", pikokms.PairObject: "a/1.pdf"})
			require.NoError(t, err)
			require.Equal(t, "a/1.pdf", context[pikokms.PairObject])

			for _, other := range []fixture{newFixture(t, options...), newFixture(t, append(options, pikokms.BindObjectName("receipts"))...)} {
				require.NoError(t, other.folder.Put(t.Context(), "a/1.pdf", bytes.NewReader(bound.stored(t, "a/2.pdf"))))
				_, err = other.Get(t.Context(), "a/1.pdf")
				require.ErrorIs(t, err, provider.ErrDecryptionFailed)
			}
			unbound := newFixture(t, options...)
			require.NoError(t, unbound.Put(t.Context(), "a/1.pdf", strings.NewReader("x")))
			require.NoError(t, bound.folder.Put(t.Context(), "a/1.pdf", bytes.NewReader(unbound.stored(t, "a/1.pdf"))))
			_, err = bound.Get(t.Context(), "a/1.pdf")
			require.ErrorIs(t, err, provider.ErrContextMismatch)
		})
	}
	_, err = pikokms.New(pikokms.BindObjectName(""))
	require.ErrorContains(t, err, "BindObjectName needs the bucket's name")
}

func TestOtherProvidersStillRead(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.Put(t.Context(), "object", strings.NewReader("under the old key")))
	newer := newLocal(t, "newer", 2)
	host, err := pikokms.New(
		pikokms.WithCryptoProvider("newer", newer), pikokms.WithCryptoProvider("older", newLocal(t, "local", 1)),
		pikokms.WithDefaultCryptoProvider("newer"), pikokms.WithStorage(f.folder))
	require.NoError(t, err)
	got, err := get(t, host, "object")
	require.NoError(t, err)
	require.Equal(t, "under the old key", got)

	host, err = pikokms.New(pikokms.WithCryptoProvider("newer", newer), pikokms.WithDefaultCryptoProvider("newer"), pikokms.WithStorage(f.folder))
	require.NoError(t, err)
	_, err = get(t, host, "object")
	require.ErrorIs(t, err, provider.ErrUntrustedKey)
	require.ErrorContains(t, err, `"local"`)
}

func TestBadWiring(t *testing.T) {
	p := newLocal(t, "local", 1)
	folder, err := folderstorage.New(t.TempDir())
	require.NoError(t, err)
	defer folder.Close()
	good := []pikokms.Option{pikokms.WithCryptoProvider("p", p), pikokms.WithDefaultCryptoProvider("p"), pikokms.WithStorage(folder)}
	for name, c := range map[string]struct {
		options []pikokms.Option
		want    error
		says    string
	}{
		"nothing":             {nil, pikokms.ErrConfig, "WithCryptoProvider"},
		"no default":          {[]pikokms.Option{good[0], pikokms.WithCryptoProvider("q", p), good[2]}, pikokms.ErrConfig, "WithDefaultCryptoProvider"},
		"unknown default":     {append(good[:3:3], pikokms.WithDefaultCryptoProvider("q")), pikokms.ErrConfig, `"q"`},
		"twice":               {append(good[:3:3], good[0]), pikokms.ErrConfig, "twice"},
		"nil provider":        {append(good[:3:3], pikokms.WithCryptoProvider("q", nil)), pikokms.ErrConfig, "needs"},
		"unknown transformer": {append(good[:3:3], pikokms.WithEnabledTransformers("lzma")), pikokms.ErrUnknownTransformer, "lzma"},
		"transformer twice":   {append(good[:3:3], pikokms.WithEnabledTransformers("zstd", "zstd")), pikokms.ErrInvalidTransformer, "twice"},
		"taken name":          {append(good[:3:3], pikokms.WithTransformer(renamed{"zstd", 50})), pikokms.ErrInvalidTransformer, "already"},
		"bad name":            {append(good[:3:3], pikokms.WithTransformer(renamed{"a,b", 50})), pikokms.ErrInvalidTransformer, "a,b"},
		"behind encryption":   {append(good[:3:3], pikokms.WithTransformer(renamed{"late", 300})), pikokms.ErrInvalidTransformer, "last"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pikokms.New(c.options...)
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, c.says)
		})
	}
}

type renamed struct {
	name     string
	priority int
}

func (r renamed) Name() string                { return r.name }
func (renamed) Type() pikokms.TransformerType { return pikokms.TransformerCustom }
func (r renamed) Priority() int               { return r.priority }
func (renamed) Transform(_ context.Context, input io.Reader, _ any) (io.Reader, error) {
	return input, nil
}
func (renamed) Reverse(_ context.Context, input io.Reader, _ any) (io.Reader, error) {
	return input, nil
}

func TestDroppedStreamsLeaveNoGoroutine(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, enabled := range append([]string{""}, compress.Formats()...) {
		var options []pikokms.Option
		if enabled != "" {
			options = append(options, pikokms.WithEnabledTransformers(enabled))
		}
		f := newFixture(t, options...)
		require.NoError(t, f.Put(t.Context(), "object", io.LimitReader(zeros{}, 5<<20)))
		content, err := f.Get(t.Context(), "object")
		require.NoError(t, err)
		_, err = io.ReadFull(content, make([]byte, 100_000))
		require.NoError(t, err)
		require.NoError(t, content.Close())
		stored, err := f.EncryptObject(t.Context(), "object", zeros{}, nil)
		require.NoError(t, err)
		_, err = io.ReadFull(stored, make([]byte, 50))
		require.NoError(t, err)
	}
}

// TestParallelismOfAHost counts the goroutines during uploads and downloads of objects that are
// long enough for several.
func TestParallelismOfAHost(t *testing.T) {
	content := make([]byte, 9<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(content)
	for _, enabled := range append([]string{""}, compress.Formats()...) {
		for _, parallelism := range []int{1, 3} {
			options := []pikokms.Option{pikokms.WithParallelism(parallelism)}
			if enabled != "" {
				options = append(options, pikokms.WithEnabledTransformers(enabled))
			}
			f := newFixture(t, options...)
			before, peak := runtime.NumGoroutine(), 0
			source, compared := bytes.NewReader(content), bytes.NewReader(content)
			require.NoError(t, f.Put(t.Context(), "object", readerFunc(func(p []byte) (int, error) {
				peak = max(peak, runtime.NumGoroutine()-before)
				return source.Read(p)
			})))
			object, err := f.Get(t.Context(), "object")
			require.NoError(t, err)
			n, err := io.Copy(writerFunc(func(p []byte) (int, error) {
				peak = max(peak, runtime.NumGoroutine()-before)
				want := make([]byte, len(p))
				_, _ = compared.Read(want)
				require.True(t, bytes.Equal(want, p))
				return len(p), nil
			}), object)
			require.NoError(t, err)
			require.NoError(t, object.Close())
			require.EqualValues(t, len(content), n)
			require.Equal(t, parallelism > 1, peak > 0, "%s on %d: %d goroutines more", enabled, parallelism, peak)
		}
	}
	_, err := pikokms.New(pikokms.WithParallelism(-1))
	require.ErrorIs(t, err, pikokms.ErrConfig)
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestConcurrentUse(t *testing.T) {
	f := newFixture(t, pikokms.WithEnabledTransformers("zstd"))
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			key, content := fmt.Sprintf("shared/%d", i%4), strings.Repeat(fmt.Sprint(i%4), 200_000)
			if err := f.Put(t.Context(), key, strings.NewReader(content)); err != nil {
				t.Error(err)
				return
			}
			if got, err := get(t, f, key); err != nil || got != content {
				t.Errorf("%s: %d bytes, %v", key, len(got), err)
			}
		})
	}
	wg.Wait()
	require.Len(t, keys(t, f, "shared/"), 4)
}
