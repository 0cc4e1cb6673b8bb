package pikokms_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/race"
)

var errLost = adversary.ErrLost

// failures are the ways in which a source fails after these bytes.
func failures(b []byte) map[string]*adversary.Source {
	sources := make(map[string]*adversary.Source)
	for way, ending := range adversary.Losses {
		sources[way] = &adversary.Source{Rest: b, Ending: ending}
	}
	return sources
}

// failing is a storage of one object whose connection is lost.
type failing struct {
	pikokms.ConditionalStorage
	source io.ReadCloser
}

func (f *failing) GetVersion(context.Context, string) (io.ReadCloser, string, error) {
	return f.source, "1", nil
}
func (f *failing) Get(context.Context, string) (io.ReadCloser, error) { return f.source, nil }

// A connection that is lost is an error at every door, wherever it is lost and however it says so.
func TestALostConnectionIsNeverAnEnd(t *testing.T) {
	race.SkipShort(t)
	content := bytes.Repeat([]byte("content "), 10)
	cases := 0
	for _, format := range append([]string{""}, compress.Formats()...) {
		options := []pikokms.Option{pikokms.AllowPlaintext(), pikokms.AllowPikoV2(), pikokms.AllowForeignMessages()}
		if format != "" {
			options = append(options, pikokms.WithEnabledTransformers(format))
		}
		f := newFixture(t, options...)
		require.NoError(t, f.Put(t.Context(), "object", bytes.NewReader(content)))
		memory := adversary.NewMemory()
		storage := &failing{memory, nil}
		host := newFixture(t, append(options, pikokms.WithStorage(storage))...)
		for name, stored := range map[string][]byte{"message": f.stored(t, "object"), "plaintext": []byte("from before encryption")} {
			for at := range len(stored) + 1 {
				for way := range failures(nil) {
					source := func() *adversary.Source { return failures(stored[:at])[way] }
					lost := source().Ending.Err
					check := func(door string, err error) {
						cases++
						require.ErrorIs(t, err, lost, "%s of a %s, %s, cut at %d of %d bytes: %s", door, name, format, at, len(stored), way)
					}
					storage.source = source()
					_, err := get(t, host, "object")
					check("Get", err)

					storage.source = source()
					r, err := host.Get(t.Context(), "object")
					if err == nil {
						_, err = io.Copy(io.Discard, r) // by WriteTo
					}
					check("Get and copy", err)

					r2, _, err := host.DecryptObject(t.Context(), "object", source(), int64(len(stored)), nil)
					if err == nil {
						_, err = io.ReadAll(r2)
						_, again := io.ReadAll(r2)
						if err != nil && again == nil {
							err = errors.New("after the failure it says that it has ended")
						}
					}
					check("DecryptObject", err)

					storage.source = source()
					if name == "plaintext" {
						check("Migrate", host.Migrate(t.Context(), "object"))
					} else {
						check("Rewrap", host.Rewrap(t.Context(), "object"))
					}
					require.Nil(t, memory.Bytes("object"))

					// StatedSize reads the header alone.
					if _, err := host.StatedSize(source(), int64(len(stored))); at < 4 {
						check("StatedSize", err)
					}
				}
			}
		}
		for at := range len(content) + 1 {
			for way := range failures(nil) {
				cases++
				source := failures(content[:at])[way]
				require.ErrorIs(t, f.Put(t.Context(), "new/object", source), source.Ending.Err, "Put, %s, cut at %d: %s", format, at, way)
				_, err := f.folder.Get(t.Context(), "new/object")
				require.ErrorIs(t, err, fs.ErrNotExist)
			}
		}
		require.Equal(t, []string{"object"}, f.files(t))
	}
	t.Logf("%d cases", cases)
}

// failingAt is random access that fails from an offset on.
type failingAt struct {
	inMemoryObject
	from int64
}

func (f failingAt) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		n, _ := f.inMemoryObject.ReadAt(p[:max(0, min(int64(len(p)), f.from-off))], off)
		return n, errLost
	}
	return f.inMemoryObject.ReadAt(p, off)
}

func TestALostConnectionOfRandomAccess(t *testing.T) {
	for _, format := range []string{"", compress.ZstdSeekable} {
		f := newFixture(t, pikokms.AllowPlaintext())
		if format != "" {
			f = newFixture(t, pikokms.AllowPlaintext(), pikokms.WithEnabledTransformers(format))
		}
		require.NoError(t, f.Put(t.Context(), "object", bytes.NewReader(bytes.Repeat([]byte("content "), 20_000))))
		for _, stored := range [][]byte{f.stored(t, "object"), []byte("from before encryption")} {
			for at := 0; at < len(stored); at += 1 + at/50 {
				r, err := f.OpenObject(t.Context(), "object", failingAt{inMemoryObject{bytes.NewReader(stored)}, int64(at)}, nil)
				if err == nil {
					_, err = io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
				}
				require.ErrorIs(t, err, errLost, "cut at %d", at)
			}
		}
	}
}

// closing counts the calls of Close, and fails each but the first one in another way.
type closing struct {
	io.Reader
	calls int
}

func (c *closing) Close() error {
	if c.calls++; c.calls > 1 {
		return errors.New("closed already")
	}
	return errLost
}

func TestASecondCloseReturnsTheFirstOnesResult(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.Put(t.Context(), "object", bytes.NewReader([]byte("content"))))
	storage := &failing{adversary.NewMemory(), &closing{Reader: bytes.NewReader(f.stored(t, "object"))}}
	r, err := newFixture(t, pikokms.WithStorage(storage)).Get(t.Context(), "object")
	require.NoError(t, err)
	require.Equal(t, errLost, r.Close())
	require.Equal(t, errLost, r.Close())

	object, err := f.Open(t.Context(), "object")
	require.NoError(t, err)
	stored, err := f.folder.Open(t.Context(), "object")
	require.NoError(t, err)
	file, err := f.FS(t.Context()).Open("object")
	require.NoError(t, err)
	for _, c := range []io.Closer{object, stored, file, f.Host, f.folder} {
		require.NoError(t, c.Close())
		require.NoError(t, c.Close(), "%T", c)
	}
}

// inMemoryObject is an open object in memory.
type inMemoryObject struct{ *bytes.Reader }

func (inMemoryObject) Close() error       { return nil }
func (inMemoryObject) ModTime() time.Time { return time.Time{} }
