package adversary

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync/atomic"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// ErrFault is the error of a call that Calls made fail.
var ErrFault = errors.New("fault")

// Calls counts the calls of everything that it wraps, and makes some of them fail. It is safe for
// concurrent use.
type Calls struct {
	Fails func(n int) bool // reports whether the nth call fails, from 1; nil means none
	made  atomic.Int64
}

// EachCall calls run with a fault at the first call, then with one at the second, and so on, until
// run makes no more calls. It returns the number of faults.
func EachCall(run func(c *Calls)) int {
	for k := 1; ; k++ {
		c := &Calls{Fails: func(n int) bool { return n == k }}
		run(c)
		if c.Made() < k {
			return k - 1
		}
	}
}

// Made returns how many calls there were.
func (c *Calls) Made() int { return int(c.made.Load()) }

// Failed reports whether a call was made to fail, if Fails picks one call alone.
func (c *Calls) Failed() bool {
	for n := range c.Made() {
		if c.Fails != nil && c.Fails(n+1) {
			return true
		}
	}
	return false
}

// Call counts a call of the named operation, and returns ErrFault if it is to fail.
func (c *Calls) Call(what string) error {
	n := int(c.made.Add(1))
	if c.Fails != nil && c.Fails(n) {
		return fmt.Errorf("%w: %s, call %d", ErrFault, what, n)
	}
	return nil
}

// Reader returns a source whose reads are calls. A read that fails may still return bytes. Reads
// after the failure return io.EOF, as those of bodies of HTTP requests do.
func (c *Calls) Reader(r io.Reader) io.Reader { return &reader{Reader: r, calls: c} }

type reader struct {
	io.Reader
	calls  *Calls
	failed bool
}

func (r *reader) Read(p []byte) (int, error) {
	if r.failed {
		return 0, io.EOF
	}
	if err := r.calls.Call("read"); err != nil {
		r.failed = true
		n := 0
		if len(p) > 0 {
			n, _ = r.Reader.Read(p[:len(p)/2]) // the fault's error takes the place of this one
		}
		return n, err
	}
	return r.Reader.Read(p)
}

// ReaderAt returns random access whose reads are calls.
func (c *Calls) ReaderAt(r io.ReaderAt) io.ReaderAt { return readerAt{r, c} }

type readerAt struct {
	io.ReaderAt
	calls *Calls
}

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	if err := r.calls.Call("read at"); err != nil {
		n, _ := r.ReaderAt.ReadAt(p[:len(p)/2], off) // the fault's error takes the place of this one
		return n, err
	}
	return r.ReaderAt.ReadAt(p, off)
}

// Writer returns a destination whose writes are calls. A write that fails takes half of its bytes.
// If short is true, it returns no error.
func (c *Calls) Writer(w io.Writer, short bool) io.Writer { return writer{w, c, short} }

type writer struct {
	io.Writer
	calls *Calls
	short bool
}

func (w writer) Write(p []byte) (int, error) {
	if err := w.calls.Call("write"); err != nil {
		n, _ := w.Writer.Write(p[:len(p)/2]) // the fault's error takes the place of this one
		if w.short {
			err = nil
		}
		return n, err
	}
	return w.Writer.Write(p)
}

// Keys returns a provider whose operations on data keys are calls.
func (c *Calls) Keys(p provider.EncryptionProvider) provider.EncryptionProvider { return keys{p, c} }

type keys struct {
	provider.EncryptionProvider
	calls *Calls
}

func (k keys) fail(what string) error {
	if err := k.calls.Call(what); err != nil {
		return fmt.Errorf("%w: %w", provider.ErrProviderUnavailable, err)
	}
	return nil
}

func (k keys) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	if err := k.fail("GenerateDataKey"); err != nil {
		return nil, err
	}
	return k.EncryptionProvider.GenerateDataKey(ctx, encryptionContext)
}

func (k keys) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	if err := k.fail("WrapDataKey"); err != nil {
		return header.EncryptedDataKey{}, err
	}
	return k.EncryptionProvider.WrapDataKey(ctx, key, encryptionContext)
}

func (k keys) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	key, err := k.EncryptionProvider.UnwrapDataKey(ctx, request)
	if errors.Is(err, provider.ErrUntrustedKey) {
		return nil, err // no key service is asked
	}
	if failure := k.fail("UnwrapDataKey"); failure != nil {
		if err == nil {
			failure = errors.Join(failure, key.Close())
		}
		return nil, failure
	}
	return key, err
}

// Storage returns a storage whose operations, and the reads of its objects, are calls. A Put is two
// calls. If the first fails, Put has read a part of the content. If the second fails, the object is
// stored, but its answer is lost.
func (c *Calls) Storage(s FullStorage) FullStorage { return storage{s, c} }

// FullStorage is a storage with all methods that a host can use.
type FullStorage interface {
	pikokms.ConditionalStorage
	pikokms.RangeStorage
}

type storage struct {
	FullStorage
	calls *Calls
}

func (s storage) put(content io.Reader, put func() error) error {
	if err := s.calls.Call("put"); err != nil {
		_, _ = io.CopyN(io.Discard, content, 100) // the fault's error takes the place of this one
		return err
	}
	if err := put(); err != nil {
		return err
	}
	return s.calls.Call("answer to put")
}

func (s storage) Put(ctx context.Context, key string, content io.Reader) error {
	return s.put(content, func() error { return s.FullStorage.Put(ctx, key, content) })
}

func (s storage) PutIf(ctx context.Context, key, version string, content io.Reader) error {
	return s.put(content, func() error { return s.FullStorage.PutIf(ctx, key, version, content) })
}

func (s storage) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	content, _, err := s.GetVersion(ctx, key)
	return content, err
}

func (s storage) GetVersion(ctx context.Context, key string) (io.ReadCloser, string, error) {
	if err := s.calls.Call("get"); err != nil {
		return nil, "", err
	}
	content, version, err := s.FullStorage.GetVersion(ctx, key)
	if err != nil {
		return nil, "", err
	}
	return struct {
		io.Reader
		io.Closer
	}{s.calls.Reader(content), content}, version, nil
}

func (s storage) Delete(ctx context.Context, key string) error {
	if err := s.calls.Call("delete"); err != nil {
		return err
	}
	return s.FullStorage.Delete(ctx, key)
}

func (s storage) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for key, err := range s.FullStorage.List(ctx, prefix) {
			if err == nil {
				err = s.calls.Call("list")
			}
			if !yield(key, err) || err != nil {
				return
			}
		}
	}
}

func (s storage) Open(ctx context.Context, key string) (pikokms.Object, error) {
	if err := s.calls.Call("open"); err != nil {
		return nil, err
	}
	o, err := s.FullStorage.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	return storedObject{o, s.calls.ReaderAt(o)}, nil
}

type storedObject struct {
	pikokms.Object
	at io.ReaderAt
}

func (o storedObject) ReadAt(p []byte, off int64) (int, error) { return o.at.ReadAt(p, off) }
