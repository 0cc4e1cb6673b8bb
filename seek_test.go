package pikokms_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// What can be sought does whatever a bytes.Reader does, in any order of calls, also after errors.
func TestSeekersAreAsThoseOfAllPackages(t *testing.T) {
	content := bytes.Repeat([]byte("a stored object, "), 20_000)
	f := newFixture(t)
	seekable := newFixture(t, pikokms.WithEnabledTransformers(compress.ZstdSeekable))
	require.NoError(t, f.Put(t.Context(), "a", bytes.NewReader(content)))
	require.NoError(t, seekable.Put(t.Context(), "a", bytes.NewReader(content)))
	for name, open := range map[string]func() (io.ReadSeeker, error){
		"Object":            func() (io.ReadSeeker, error) { return f.Open(t.Context(), "a") },
		"Object compressed": func() (io.ReadSeeker, error) { return seekable.Open(t.Context(), "a") },
		"file": func() (io.ReadSeeker, error) {
			file, err := f.FS(t.Context()).Open("a")
			if err != nil {
				return nil, err
			}
			return file.(io.ReadSeeker), nil
		},
		"message": func() (io.ReadSeeker, error) {
			d := message.Decrypter{Keyrings: []provider.Unwrapper{newLocal(t, "local", 1)}}
			stored := f.stored(t, "a")
			return d.Open(t.Context(), bytes.NewReader(stored), int64(len(stored)), nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := open()
			require.NoError(t, err)
			rapid.Check(t, func(t *rapid.T) {
				want := bytes.NewReader(content)
				_, err := got.Seek(0, io.SeekStart)
				require.NoError(t, err)
				size := int64(len(content))
				for range rapid.IntRange(1, 20).Draw(t, "calls") {
					if rapid.Bool().Draw(t, "read") {
						p, q := make([]byte, rapid.IntRange(0, 100_000).Draw(t, "n")), []byte(nil)
						q = make([]byte, len(p))
						n, err := io.ReadFull(want, p)
						m, gotErr := io.ReadFull(got, q)
						require.Equal(t, n, m)
						require.Equal(t, err, gotErr)
						require.True(t, bytes.Equal(p, q))
						continue
					}
					off, whence := rapid.Int64Range(-2*size, 2*size).Draw(t, "offset"), rapid.IntRange(-1, 3).Draw(t, "whence")
					at, err := want.Seek(off, whence)
					gotAt, gotErr := got.Seek(off, whence)
					require.Equal(t, err == nil, gotErr == nil, "%v, %v", err, gotErr)
					if err == nil {
						require.Equal(t, at, gotAt)
					}
				}
			})
			require.NoError(t, errors.Join(closeOf(got)))
		})
	}
}

func closeOf(v any) error {
	if c, ok := v.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// withoutRanges is a storage that only has the methods of Storage.
type withoutRanges struct{ pikokms.Storage }

// FS opens what can only be read forward, too, and such a file does not claim that it can be
// sought.
func TestFSOfWhatIsReadForward(t *testing.T) {
	race.SkipShort(t)
	forward := map[string]pikokms.Option{"no ranges": nil}
	for _, format := range []string{compress.Zstd, compress.Gzip, compress.S2} {
		forward[format] = pikokms.WithEnabledTransformers(format)
	}
	for name, option := range forward {
		t.Run(name, func(t *testing.T) {
			folder, err := folderstorage.New(t.TempDir())
			require.NoError(t, err)
			var storage pikokms.Storage = folder
			if option == nil {
				option = pikokms.WithStorage(withoutRanges{folder})
			}
			host, err := pikokms.New(pikokms.WithCryptoProvider("local", newLocal(t, "local", 1)),
				pikokms.WithDefaultCryptoProvider("local"), pikokms.WithStorage(storage), option)
			require.NoError(t, err)
			for _, key := range []string{"a", "b/c", "empty"} {
				require.NoError(t, host.Put(t.Context(), key, strings.NewReader(strings.Repeat(strings.TrimPrefix(key, "empty"), 30_000))))
			}
			fsys := host.FS(t.Context())
			require.NoError(t, fstest.TestFS(fsys, "a", "b/c", "empty"))
			b, err := fs.ReadFile(fsys, "b/c")
			require.NoError(t, err)
			require.Equal(t, strings.Repeat("b/c", 30_000), string(b))
			info, err := fs.Stat(fsys, "b/c")
			require.NoError(t, err)
			require.EqualValues(t, len(b), info.Size())
			file, err := fsys.Open("a")
			require.NoError(t, err)
			require.NotImplements(t, (*io.Seeker)(nil), file)
			require.NotImplements(t, (*io.ReaderAt)(nil), file)
			require.NoError(t, file.Close())
			_, err = fs.ReadFile(fsys, "none")
			require.ErrorIs(t, err, fs.ErrNotExist)
		})
	}
}
