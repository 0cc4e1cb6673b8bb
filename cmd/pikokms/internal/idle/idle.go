// Package idle gives up a folder that makes no progress, such as one of a network file system whose
// server is away.
package idle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"sync"
	"time"

	"piko.sh/pikokms"
)

// ErrIdle means that a storage was given up because nothing of an operation moved for a time.
// Trying again may help.
var ErrIdle = errors.New("the storage does not answer")

// grace is how long a folder that was given up has to return, which lets it clean up.
const grace = time.Second

// Folder has the methods of a folderstorage.Storage, but for Close.
type Folder interface {
	pikokms.ConditionalStorage
	pikokms.RangeStorage
	Walk(ctx context.Context, prefix string, visit func(key string, kind fs.FileMode, err error) error) error
	PutFunc(ctx context.Context, key string, content io.Reader, place func(old fs.FileInfo, file *os.File) error) error
}

// Limit returns a folder whose operations fail with ErrIdle when they make no progress for limit.
// Without it they may wait for ever. If limit is 0, it returns folder itself.
//
// Progress is what can be seen from here: a call that returns, each Read and each ReadAt of
// content, each key of List, and each piece that Put reads of its content. The time that such a
// piece takes does not count. So limit must be longer than the longest single step, such as syncing
// what is left of a file; a minute suits most.
//
// An operation that is given up has its context cancelled and its content closed. A call that waits
// in the operating system can't be interrupted: its goroutine, and the file that it holds, stay
// until the system returns. A Put that is given up after it has read all its content may still be
// carried out.
func Limit(folder Folder, limit time.Duration) Folder {
	if limit <= 0 {
		return folder
	}
	return &limited{folder, limit}
}

// limited is a Folder that is given up when it makes no progress.
type limited struct {
	inner Folder
	limit time.Duration
}

func (l *limited) idle(operation, key string) error {
	return fmt.Errorf("%s %s: %w: nothing moved for %v in %T", operation, key, ErrIdle, l.limit, l.inner)
}

// run makes a call of the storage, and returns errIdle if it takes longer than the limit. What the
// call opens after that is closed by drop, which is nil for a call that opens nothing.
func run[T any](l *limited, timer *time.Timer, cancel context.CancelFunc, errIdle error, call func() (T, error), drop func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	results, abandoned := make(chan result), make(chan struct{})
	go func() {
		value, err := call()
		select {
		case results <- result{value, err}:
		case <-abandoned:
			if err == nil && drop != nil {
				drop(value)
			}
		}
	}()
	timer.Reset(l.limit)
	defer timer.Stop()
	select {
	case r := <-results:
		return r.value, r.err
	case <-timer.C:
	}
	cancel()
	timer.Reset(min(grace, l.limit))
	defer close(abandoned)
	var none T
	select {
	case r := <-results:
		switch {
		case r.err != nil:
			return none, fmt.Errorf("%w: %w", errIdle, r.err)
		case drop != nil:
			drop(r.value) // its context has ended
			return none, errIdle
		}
		return r.value, nil // it came at the last moment
	case <-timer.C:
		return none, errIdle
	}
}

func (l *limited) Put(ctx context.Context, key string, content io.Reader) error {
	return l.put(ctx, key, content, func(ctx context.Context, content io.Reader) error { return l.inner.Put(ctx, key, content) })
}

func (l *limited) PutIf(ctx context.Context, key, version string, content io.Reader) error {
	return l.put(ctx, key, content, func(ctx context.Context, content io.Reader) error {
		return l.inner.PutIf(ctx, key, version, content)
	})
}

func (l *limited) put(ctx context.Context, key string, content io.Reader, put func(context.Context, io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.NewTimer(l.limit)
	sent := &sending{content: content, timer: timer, limit: l.limit, idle: l.idle("put", key)}
	done := make(chan error, 1)
	go func() { done <- put(ctx, sent) }()
	defer timer.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-timer.C:
		}
		if !sent.giveUp() {
			continue // it reads, and then sets the timer again
		}
		cancel()
		select {
		case err := <-done:
			if err == nil {
				return nil // it came at the last moment
			}
			return fmt.Errorf("%w: %w", sent.idle, err)
		case <-time.After(min(grace, l.limit)):
			return sent.idle
		}
	}
}

// sending is the content of a Put. The limit does not run while it is read.
type sending struct {
	content io.Reader
	timer   *time.Timer
	limit   time.Duration
	idle    error

	mu      sync.Mutex
	reading bool
	moved   time.Time // when the last read ended
	givenUp bool      // the Put was given up, and its caller may use content for something else
}

// giveUp ends the Put, unless its content is being read.
func (s *sending) giveUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.givenUp = !s.reading && time.Since(s.moved) >= s.limit
	return s.givenUp
}

func (s *sending) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.givenUp {
		return s.idle
	}
	s.reading = true
	s.timer.Stop()
	return nil
}

func (s *sending) Read(p []byte) (int, error) {
	if err := s.begin(); err != nil {
		return 0, err
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reading, s.moved = false, time.Now()
		s.timer.Reset(s.limit)
	}()
	return s.content.Read(p)
}

// ContentLength returns the length of the content in bytes, if it is known.
func (s *sending) ContentLength() (int64, bool) {
	if message, ok := s.content.(interface{ ContentLength() (int64, bool) }); ok {
		return message.ContentLength()
	}
	return 0, false
}

func (l *limited) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	content, _, err := l.get(ctx, key, func(ctx context.Context) (io.ReadCloser, string, error) {
		content, err := l.inner.Get(ctx, key)
		return content, "", err
	})
	return content, err
}

func (l *limited) GetVersion(ctx context.Context, key string) (io.ReadCloser, string, error) {
	return l.get(ctx, key, func(ctx context.Context) (io.ReadCloser, string, error) { return l.inner.GetVersion(ctx, key) })
}

func (l *limited) get(ctx context.Context, key string, get func(context.Context) (io.ReadCloser, string, error)) (io.ReadCloser, string, error) {
	ctx, cancel := context.WithCancel(ctx)
	timer := time.NewTimer(l.limit)
	opened, err := run(l, timer, cancel, l.idle("get", key), func() (versioned, error) {
		content, version, err := get(ctx)
		return versioned{content, version}, err
	}, func(v versioned) { _ = v.content.Close() })
	if err != nil {
		cancel()
		return nil, "", err
	}
	r := &limitedReader{l: l, timer: timer, cancel: cancel, content: opened.content, idle: l.idle("get", key)}
	if stored, ok := opened.content.(pikokms.Object); ok {
		return &limitedFile{r, stored}, opened.version, nil
	}
	return r, opened.version, nil
}

// versioned is the content of an object and its version.
type versioned struct {
	content io.ReadCloser
	version string
}

// idleBuffers holds buffers, as *[]byte, into which storages read. They can't read into the buffer
// of a caller, who may use it again while a read that was given up is still under way.
var idleBuffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// read makes a read of the storage into a buffer of its own, and copies the result into p.
func (l *limited) read(timer *time.Timer, cancel context.CancelFunc, errIdle error, p []byte, read func(p []byte) (int, error)) (int, error) {
	buffer := idleBuffers.Get().(*[]byte)
	if len(*buffer) < len(p) {
		*buffer = make([]byte, len(p))
	}
	n, err := run(l, timer, cancel, errIdle, func() (int, error) { return read((*buffer)[:len(p)]) }, nil)
	if errors.Is(err, ErrIdle) {
		return 0, err // the storage may still write to the buffer
	}
	copied := copy(p, (*buffer)[:max(0, min(n, len(p)))])
	clear((*buffer)[:copied]) // what the storage holds may be plaintext
	idleBuffers.Put(buffer)
	return n, err // whoever reads from this refuses an impossible count
}

// limitedReader is the content of an object. It is for one goroutine.
type limitedReader struct {
	l       *limited
	timer   *time.Timer
	cancel  context.CancelFunc
	content io.ReadCloser
	idle    error
	failed  error // of the read that was given up
	close   sync.Once
	closed  error
}

func (r *limitedReader) Read(p []byte) (int, error) {
	if r.failed != nil {
		return 0, r.failed
	}
	return r.l.read(r.timer, r.giveUp, r.idle, p, r.content.Read)
}

// giveUp makes a read return, if the storage lets it.
func (r *limitedReader) giveUp() {
	r.failed = r.idle
	r.cancel()
	go r.content.Close() // which may wait for the read
}

// Close implements io.Closer. A second Close returns the first one's result.
func (r *limitedReader) Close() error {
	r.close.Do(func() {
		defer r.cancel()
		if r.failed != nil {
			return // it is closed
		}
		_, r.closed = run(r.l, r.timer, r.cancel, r.idle, func() (struct{}, error) { return struct{}{}, r.content.Close() }, nil)
	})
	return r.closed
}

// limitedFile is content that can also be read at any place.
type limitedFile struct {
	*limitedReader
	stored pikokms.Object
}

func (f *limitedFile) Size() int64        { return f.stored.Size() }
func (f *limitedFile) ModTime() time.Time { return f.stored.ModTime() }

// Seek implements io.Seeker. It waits for no storage.
func (f *limitedFile) Seek(offset int64, whence int) (int64, error) {
	return f.stored.Seek(offset, whence)
}

// Stat describes the file of a Folder's content.
func (f *limitedFile) Stat() (fs.FileInfo, error) { return statOf(f.stored) }

// Stat describes the file of a Folder's object.
func (o *limitedObject) Stat() (fs.FileInfo, error) { return statOf(o.reads.object) }

func statOf(object pikokms.Object) (fs.FileInfo, error) {
	file, ok := object.(interface{ Stat() (fs.FileInfo, error) })
	if !ok {
		return nil, fmt.Errorf("a %T is no file", object)
	}
	return file.Stat()
}

func (f *limitedFile) ReadAt(p []byte, off int64) (int, error) {
	return limitedReads{f.l, f.stored, f.cancel, f.idle}.ReadAt(p, off)
}

func (l *limited) Open(ctx context.Context, key string) (pikokms.Object, error) {
	ctx, cancel := context.WithCancel(ctx)
	errIdle := l.idle("open", key)
	stored, err := run(l, time.NewTimer(l.limit), cancel, errIdle,
		func() (pikokms.Object, error) { return l.inner.Open(ctx, key) },
		func(stored pikokms.Object) { _ = stored.Close() })
	if err != nil {
		cancel()
		return nil, err
	}
	o := &limitedObject{reads: limitedReads{l, stored, cancel, errIdle}}
	o.SectionReader = io.NewSectionReader(o.reads, 0, stored.Size())
	return o, nil
}

// limitedReads reads an object at any place. A read that is given up ends the others, too.
type limitedReads struct {
	l      *limited
	object pikokms.Object
	cancel context.CancelFunc
	idle   error
}

// ReadAt is safe for concurrent use.
func (r limitedReads) ReadAt(p []byte, off int64) (int, error) {
	timer := time.NewTimer(r.l.limit)
	return r.l.read(timer, r.cancel, r.idle, p, func(p []byte) (int, error) { return r.object.ReadAt(p, off) })
}

// limitedObject is an object that is open for random access.
type limitedObject struct {
	*io.SectionReader // of limitedReads
	reads             limitedReads
	close             sync.Once
	closed            error
}

func (o *limitedObject) ModTime() time.Time { return o.reads.object.ModTime() }

// Close implements io.Closer. A second Close returns the first one's result.
func (o *limitedObject) Close() error {
	o.close.Do(func() {
		r := o.reads
		defer r.cancel()
		_, o.closed = run(r.l, time.NewTimer(r.l.limit), r.cancel, r.idle, func() (struct{}, error) { return struct{}{}, r.object.Close() }, nil)
	})
	return o.closed
}

func (l *limited) Delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_, err := run(l, time.NewTimer(l.limit), cancel, l.idle("delete", key), func() (struct{}, error) { return struct{}{}, l.inner.Delete(ctx, key) }, nil)
	return err
}

func (l *limited) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return limitedList(ctx, l, prefix, l.inner.List)
}

// Walk is Folder.Walk.
func (l *limited) Walk(ctx context.Context, prefix string, visit func(key string, kind fs.FileMode, err error) error) error {
	for found, err := range limitedList(ctx, l, prefix, l.entries) {
		if err != nil && found.key == "" {
			return err
		}
		switch err := visit(found.key, found.kind, err); err {
		case nil:
		case fs.SkipAll:
			return nil
		default:
			return err
		}
	}
	return nil
}

type entry struct {
	key  string
	kind fs.FileMode
}

// entries yields what the folder's Walk visits. The error of the whole has no key.
func (l *limited) entries(ctx context.Context, prefix string) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		err := l.inner.Walk(ctx, prefix, func(key string, kind fs.FileMode, err error) error {
			if !yield(entry{key, kind}, err) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield(entry{}, err)
		}
	}
}

// PutFunc is Folder.PutFunc.
func (l *limited) PutFunc(ctx context.Context, key string, content io.Reader, place func(old fs.FileInfo, file *os.File) error) error {
	return l.put(ctx, key, content, func(ctx context.Context, content io.Reader) error {
		return l.inner.PutFunc(ctx, key, content, place)
	})
}

// limitedList yields what list does.
func limitedList[T any](ctx context.Context, l *limited, prefix string, list func(context.Context, string) iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		type listed struct {
			item T
			err  error
		}
		all, stop := make(chan listed), make(chan struct{})
		go func() {
			defer close(all)
			for item, err := range list(ctx, prefix) {
				select {
				case all <- listed{item, err}:
				case <-stop:
					return
				}
			}
		}()
		defer func() { // waits for the storage, if it ends
			close(stop)
			cancel()
			select {
			case <-all:
			case <-time.After(min(grace, l.limit)):
			}
		}()
		timer := time.NewTimer(l.limit)
		defer timer.Stop()
		for {
			select {
			case next, ok := <-all:
				if !ok || !yield(next.item, next.err) {
					return
				}
				timer.Reset(l.limit)
			case <-timer.C:
				var none T
				yield(none, l.idle("list", prefix))
				return
			}
		}
	}
}
