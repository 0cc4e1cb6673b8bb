package idle_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/idle"
	"piko.sh/pikokms/folderstorage"
)

// stuckStorage is a storage that waits at one point. If it is polite it waits until its context
// ends or its content is closed, and otherwise until the test ends.
type stuckStorage struct {
	folderstorage.Storage
	at     string
	polite bool
	end    chan struct{}
}

func (s *stuckStorage) wait(ctx context.Context, at string) error {
	if at != s.at {
		return nil
	}
	if !s.polite {
		<-s.end
		return errors.New("the test has ended")
	}
	select {
	case <-s.end:
	case <-ctx.Done():
	}
	return errors.Join(ctx.Err(), errors.New("the storage noticed"))
}

func (s *stuckStorage) PutIf(ctx context.Context, key, _ string, content io.Reader) error {
	return s.Put(ctx, key, content)
}

func (s *stuckStorage) Put(ctx context.Context, key string, content io.Reader) error {
	if err := s.wait(ctx, "put"); err != nil {
		return err
	}
	if s.at == "put, before the last byte" {
		if _, err := io.ReadFull(content, make([]byte, 1)); err != nil {
			return err
		}
		return s.wait(ctx, s.at)
	}
	if _, err := io.Copy(io.Discard, content); err != nil {
		return err
	}
	return s.wait(ctx, "put, at the end")
}

func (s *stuckStorage) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := s.wait(ctx, "get"); err != nil {
		return nil, err
	}
	return &stuckContent{s: s, ctx: ctx, start: strings.NewReader("start")}, nil
}

func (s *stuckStorage) GetVersion(ctx context.Context, key string) (io.ReadCloser, string, error) {
	content, err := s.Get(ctx, key)
	return content, "1", err
}

func (s *stuckStorage) Open(ctx context.Context, key string) (pikokms.Object, error) {
	if err := s.wait(ctx, "open"); err != nil {
		return nil, err
	}
	return &stuckContent{s: s, ctx: ctx, start: strings.NewReader("start")}, nil
}

func (s *stuckStorage) Delete(ctx context.Context, key string) error { return s.wait(ctx, "delete") }

func (s *stuckStorage) List(ctx context.Context, _ string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if yield("a", nil) {
			if err := s.wait(ctx, "list"); err != nil {
				yield("", err)
			}
		}
	}
}

type stuckContent struct {
	s     *stuckStorage
	ctx   context.Context
	start *strings.Reader
}

func (c *stuckContent) Read(p []byte) (int, error) {
	if n, err := c.start.Read(p); err == nil {
		return n, nil
	}
	if err := c.s.wait(c.ctx, "read"); err != nil {
		return copy(p, "late"), err
	}
	return 0, io.EOF
}

func (c *stuckContent) ReadAt(p []byte, off int64) (int, error) {
	if err := c.s.wait(c.ctx, "read at"); err != nil {
		return copy(p, "late"), err
	}
	return c.start.ReadAt(p, off)
}

func (c *stuckContent) Close() error { return c.s.wait(c.ctx, "close") }
func (c *stuckContent) Size() int64  { return 5 }

func (c *stuckContent) Seek(int64, int) (int64, error) { return 0, errors.ErrUnsupported }
func (c *stuckContent) ModTime() time.Time             { return time.Time{} }

// TestAStorageThatNeverAnswers checks that each operation of a storage returns within its limit,
// whether the storage honours its context or not. If it does, no goroutine stays.
func TestAStorageThatNeverAnswers(t *testing.T) {
	const limit = 50 * time.Millisecond
	content := func() io.Reader { return bytes.NewReader(make([]byte, 1<<20)) }
	readAll := func(s pikokms.Storage) error {
		r, err := s.Get(t.Context(), "key")
		if err != nil {
			return err
		}
		text, err := io.ReadAll(r)
		if string(text) != "start" {
			return fmt.Errorf("read %q: %w", text, err)
		}
		return errors.Join(err, r.Close())
	}
	readAt := func(s pikokms.Storage) error {
		stored, err := s.(pikokms.RangeStorage).Open(t.Context(), "key")
		if err != nil {
			return err
		}
		p := make([]byte, 5)
		n, err := stored.ReadAt(p, 0)
		if err == nil && string(p) != "start" || err != nil && n != 0 {
			return fmt.Errorf("read %q", p)
		}
		return errors.Join(err, stored.Close())
	}
	put := func(s pikokms.Storage) error { return s.Put(t.Context(), "key", content()) }
	for at, operation := range map[string]func(pikokms.Storage) error{
		"put":                       put,
		"put, before the last byte": put,
		"put, at the end": func(s pikokms.Storage) error {
			return s.(pikokms.ConditionalStorage).PutIf(t.Context(), "key", "1", content())
		},
		"get":     readAll,
		"read":    readAll,
		"close":   readAll,
		"open":    readAt,
		"read at": readAt,
		"delete":  func(s pikokms.Storage) error { return s.Delete(t.Context(), "key") },
		"list": func(s pikokms.Storage) (err error) {
			n := 0
			for _, err = range s.List(t.Context(), "") {
				n++
			}
			require.LessOrEqual(t, n, 2)
			return err
		},
	} {
		for _, polite := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, polite %v", at, polite), func(t *testing.T) {
				before := goleak.IgnoreCurrent()
				s := &stuckStorage{at: at, polite: polite, end: make(chan struct{})}
				begin := time.Now()
				err := operation(idle.Limit(s, limit))
				require.ErrorIs(t, err, idle.ErrIdle)
				require.ErrorContains(t, err, "stuckStorage")
				require.GreaterOrEqual(t, time.Since(begin), limit)
				require.Less(t, time.Since(begin), 10*time.Second)
				if !polite {
					close(s.end)
				}
				require.NoError(t, goleak.Find(before))
				if polite {
					close(s.end)
				}

				s = &stuckStorage{end: make(chan struct{})}
				require.NoError(t, operation(idle.Limit(s, time.Minute)), "nothing is stuck")
				require.NoError(t, goleak.Find(before))
			})
		}
	}
}

// TestReadingInOrderIsLimited reads an object in order that is open for random access. The same
// limit holds.
func TestReadingInOrderIsLimited(t *testing.T) {
	s := &stuckStorage{at: "read at", polite: true, end: make(chan struct{})}
	defer close(s.end)
	stored, err := idle.Limit(s, 50*time.Millisecond).(pikokms.RangeStorage).Open(t.Context(), "key")
	require.NoError(t, err)
	_, err = io.ReadAll(stored)
	require.ErrorIs(t, err, idle.ErrIdle)
	require.NoError(t, stored.Close())
}

// slowReader takes time of its own, which does not count for the storage's limit.
type slowReader struct{ left int }

func (r *slowReader) Read(p []byte) (int, error) {
	if r.left--; r.left < 0 {
		return 0, io.EOF
	}
	time.Sleep(120 * time.Millisecond)
	return copy(p, "slow"), nil
}

func TestTheTimeOfContentIsNotTheStorages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := idle.Limit(&stuckStorage{}, 100*time.Millisecond)
		require.NoError(t, s.Put(t.Context(), "key", &slowReader{left: 3}))
		r, err := s.Get(t.Context(), "key")
		require.NoError(t, err)
		defer r.Close()
		time.Sleep(150 * time.Millisecond) // the time of whoever reads does not count either
		text, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, "start", string(text))
	})
}

// TestAFolderWithAnIdleLimit uses a folder with a limit as it would use the folder itself.
func TestAFolderWithAnIdleLimit(t *testing.T) {
	folder, err := folderstorage.New(t.TempDir())
	require.NoError(t, err)
	defer folder.Close()
	require.Same(t, folder, idle.Limit(folder, 0), "no limit")
	s := idle.Limit(folder, time.Minute)
	require.Implements(t, (*pikokms.ConditionalStorage)(nil), s)
	require.Implements(t, (*pikokms.RangeStorage)(nil), s)
	content := bytes.Repeat([]byte("0123456789"), 300_000)
	require.NoError(t, s.Put(t.Context(), "a/b", bytes.NewReader(content)))
	r, version, err := s.(pikokms.ConditionalStorage).GetVersion(t.Context(), "a/b")
	require.NoError(t, err)
	require.EqualValues(t, len(content), r.(pikokms.Object).Size())
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
	require.NoError(t, r.Close())
	stored, err := s.(pikokms.RangeStorage).Open(t.Context(), "a/b")
	require.NoError(t, err)
	p := make([]byte, 10)
	_, err = stored.ReadAt(p, 1_000_005)
	require.NoError(t, err)
	require.Equal(t, "5678901234", string(p))
	n, err := stored.ReadAt(p, int64(len(content))-5)
	require.Equal(t, 5, n)
	require.Equal(t, io.EOF, err)
	require.NoError(t, stored.Close())
	require.NoError(t, s.(pikokms.ConditionalStorage).PutIf(t.Context(), "a/b", version, strings.NewReader("new")))
	require.ErrorIs(t, s.(pikokms.ConditionalStorage).PutIf(t.Context(), "a/b", version, strings.NewReader("newer")), pikokms.ErrChanged)
	for key, err := range s.List(t.Context(), "") {
		require.NoError(t, err)
		require.Equal(t, "a/b", key)
	}
	require.NoError(t, s.Delete(t.Context(), "a/b"))
}
