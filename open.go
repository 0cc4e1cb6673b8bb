package pikokms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// ErrNotSeekable means that an object can only be read from its beginning to its end: it is signed, unframed, compressed by a
// stage that has no random access, or of Piko's old format; or its storage is no RangeStorage.
var ErrNotSeekable = errors.New("no random access")

// RangeStorage is a Storage whose objects can be read in parts. A Host on one opens objects for random access.
type RangeStorage interface {
	Storage

	// Open returns an object for random access. The error holds fs.ErrNotExist when there is no such object. ctx also ends
	// the reads. Where an object is replaced while it is open, reads give the old one or fail.
	Open(ctx context.Context, key string) (StoredObject, error)
}

// StoredObject is an object of a RangeStorage. ReadAt is safe for concurrent use.
type StoredObject interface {
	io.ReaderAt
	io.Closer
	Size() int64 // in bytes, as stored
	ModTime() time.Time
}

// SizedReaderAt is random access to something whose size is known. It is safe for concurrent use.
type SizedReaderAt interface {
	io.ReaderAt
	Size() int64 // in bytes
}

// SeekableTransformer is a stage whose stored form can be read in parts.
type SeekableTransformer interface {
	Transformer

	// Open returns random access to the original of a stored form. The error holds ErrNotSeekable for a form that has none.
	Open(ctx context.Context, stored SizedReaderAt, options any) (SizedReaderAt, error)
}

// Open implements SeekableTransformer. The options are Reverse's; the result is a *message.DecryptReaderAt.
func (t *CryptoTransformer) Open(ctx context.Context, stored SizedReaderAt, options any) (SizedReaderAt, error) {
	required, err := asEncryptionContext(options)
	if err != nil {
		return nil, err
	}
	r, err := t.decrypter.Open(ctx, stored, stored.Size(), required)
	if errors.Is(err, header.ErrUnsupported) {
		err = fmt.Errorf("%w: %w", ErrNotSeekable, err)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Open implements SeekableTransformer.
func (c compression) Open(_ context.Context, stored SizedReaderAt, _ any) (SizedReaderAt, error) {
	if c.Name() != compress.ZstdSeekable {
		return nil, fmt.Errorf("%w: the object was compressed by %s, which can only be read from its beginning; %s has random access", ErrNotSeekable, c.Name(), compress.ZstdSeekable)
	}
	r, err := compress.OpenSeekable(stored, stored.Size(), c.MaxSize())
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Open returns random access to the original of a stored object, with one call of the key service. The rest is Reverse's; the
// error also holds ErrNotSeekable.
func (r *Registry) Open(ctx context.Context, stored SizedReaderAt, required map[string]string) (SizedReaderAt, error) {
	encryption, err := r.registeredEncryption()
	if err != nil {
		return nil, err
	}
	original, err := openStage(ctx, encryption, stored, EncryptionContext(required))
	if err != nil {
		return nil, err
	}
	chain, err := r.recorded(original, encryption)
	if err != nil {
		return nil, err
	}
	for _, t := range slices.Backward(chain.stages) {
		if original, err = openStage(ctx, t, original, nil); err != nil {
			return nil, err
		}
	}
	return original, nil
}

func openStage(ctx context.Context, t Transformer, stored SizedReaderAt, options any) (SizedReaderAt, error) {
	seekable, ok := t.(SeekableTransformer)
	if !ok {
		return nil, fmt.Errorf("%w: transformer %s has none", ErrNotSeekable, t.Name())
	}
	original, err := seekable.Open(ctx, stored, options)
	if err != nil {
		return nil, fmt.Errorf("transformer %s: %w", t.Name(), err)
	}
	return original, nil
}

// Object is the original of a stored object, open for random access: it is an io.ReadSeeker for one goroutine, and an
// io.ReaderAt for any number of them. http.ServeContent serves it.
type Object struct {
	*io.SectionReader
	stored StoredObject
}

// ModTime returns when the object was stored.
func (o *Object) ModTime() time.Time { return o.stored.ModTime() }

// Close closes the stored object.
func (o *Object) Close() error { return o.stored.Close() }

// Open opens an object for random access, with one call of the key service: each read decrypts the frames that it touches and
// no others, and of those a few are kept for reads in a row. Each frame is verified when it is read; the size is certain, since the
// final frame is verified here.
//
// The error holds ErrNotSeekable, or is one of Get's. ctx also ends the reads.
func (h *Host) Open(ctx context.Context, key string) (*Object, error) {
	storage, ok := h.storage.(RangeStorage)
	if !ok {
		return nil, fmt.Errorf("open %s: %w: the storage %T is no RangeStorage", key, ErrNotSeekable, h.storage)
	}
	stored, err := storage.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	original, err := h.OpenObject(ctx, key, stored)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", key, errors.Join(err, stored.Close()))
	}
	return &Object{io.NewSectionReader(original, 0, original.Size()), stored}, nil
}

// EncryptObject returns what Put stores for content under key, for a storage that is driven by other means.
func (h *Host) EncryptObject(ctx context.Context, key string, content io.Reader) (*message.EncryptReader, error) {
	stored, err := h.chain.Transform(ctx, content, h.bound(key))
	if err != nil {
		return nil, err
	}
	return stored.(*message.EncryptReader), nil // the encryption stage is New's own, and always the last
}

// DecryptObject returns what Get returns for an object of size bytes that is stored under key, and the size of it in bytes, or
// -1 where that is not known beforehand. Until the content is read to its end the size is only as true as the stored one is.
// The errors are Get's.
func (h *Host) DecryptObject(ctx context.Context, key string, stored io.Reader, size int64) (content io.Reader, contentSize int64, err error) {
	content, err = h.reverse(ctx, key, stored)
	if err != nil {
		return nil, 0, err
	}
	contentSize = -1
	switch r := content.(type) {
	case *message.DecryptReader:
		if r.Header() == nil { // Piko's old format
			break
		}
		if n, err := message.PlaintextSize(r.Header(), size); err == nil {
			contentSize = n
		}
	case *unencrypted:
		contentSize = size
	}
	return content, contentSize, nil
}

// StatedSize returns the size in bytes of what the stored object of size bytes that begins with start decrypts to, as its header states
// it, or -1 where that is not known without decrypting. It asks no key service, and is only as true as start and size are. start is read
// as far as the header's end. The errors are those of Get for what is no message.
func (h *Host) StatedSize(start io.Reader, size int64) (int64, error) {
	first, whole, err := sniff(start)
	if err != nil {
		return 0, err
	}
	switch kind, err := h.kindOf(first); {
	case err != nil:
		return 0, err
	case kind == plaintext:
		return size, nil
	case kind == pikoV2Stream:
		return -1, nil
	}
	parsed, err := header.Read(whole, h.decrypter.Limits)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", provider.ErrInvalidCiphertext, err)
	}
	if parsed.EncryptionContext[ChainKey] != "" || parsed.Suite.Signed() {
		return -1, nil
	}
	n, err := message.PlaintextSize(parsed, size)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", provider.ErrInvalidCiphertext, err)
	}
	return n, nil
}

// BindsNames tells whether objects are bound to their keys, as BindObjectName has it.
func (h *Host) BindsNames() bool { return h.bucket != "" }

// OpenObject is Open for an object that is stored under key and open already.
func (h *Host) OpenObject(ctx context.Context, key string, stored SizedReaderAt) (SizedReaderAt, error) {
	start := make([]byte, header.SniffSize)
	n, err := stored.ReadAt(start, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch kind, err := h.kindOf(start[:n]); {
	case err != nil:
		return nil, err
	case kind == plaintext:
		return stored, nil
	case kind == pikoV2Stream:
		return nil, fmt.Errorf("%w: Piko's old format can only be read from its beginning", ErrNotSeekable)
	}
	return h.registry.Open(ctx, stored, h.bound(key))
}

// RangeReaderAt is random access to something that is fetched by ranges, such as an object behind HTTP. Reads in a row share one
// fetch, which grows as they go on, so that a run through the whole takes a few. It is safe for concurrent use; a read that comes
// while another is under way has a fetch of its own.
type RangeReaderAt struct {
	size  int64
	start []byte // the first bytes, fetched already
	fetch func(offset, length int64) (io.ReadCloser, error)

	mu       sync.Mutex
	stream   io.ReadCloser // nil if there is none
	pos, end int64         // what stream still gives
	run      int64         // the length of the last fetch
	expected int64
}

const (
	firstFetch = 128 << 10 // bytes; a frame and its neighbour
	lastFetch  = 16 << 20  // bytes; more no longer saves time per byte
)

// NewRangeReaderAt returns random access to size bytes, of which start has the first. fetch returns length bytes from offset, both of
// which lie within size.
func NewRangeReaderAt(size int64, start []byte, fetch func(offset, length int64) (io.ReadCloser, error)) *RangeReaderAt {
	return &RangeReaderAt{size: size, start: start[:min(int64(len(start)), size)], fetch: fetch}
}

// Size returns the size in bytes.
func (r *RangeReaderAt) Size() int64 { return r.size }

// Expect says that the next read elsewhere begins a run of about n bytes, so that one fetch has it all.
func (r *RangeReaderAt) Expect(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expected = n
}

// ReadAt implements io.ReaderAt.
func (r *RangeReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("pikokms: negative offset")
	}
	if off >= r.size {
		return 0, io.EOF
	}
	var atEnd error
	if int64(len(p)) > r.size-off {
		p, atEnd = p[:r.size-off], io.EOF
	}
	n := 0
	if off < int64(len(r.start)) {
		n = copy(p, r.start[off:])
	}
	if n < len(p) {
		m, err := r.read(p[n:], off+int64(n))
		if n += m; err != nil {
			return n, err
		}
	}
	return n, atEnd
}

func (r *RangeReaderAt) read(p []byte, off int64) (int, error) {
	if !r.mu.TryLock() {
		return r.fetchAlone(p, off)
	}
	defer r.mu.Unlock()
	need := int64(len(p))
	if r.stream == nil || off != r.pos || need > r.end-off {
		if err := r.refetch(off, need); err != nil {
			return 0, err
		}
	}
	n, err := io.ReadFull(r.stream, p)
	r.pos += int64(n)
	if err != nil {
		return n, errors.Join(cutShort(err), r.drop())
	}
	if r.pos == r.end {
		return n, r.drop()
	}
	return n, nil
}

// refetch replaces the stream by one that begins at off.
func (r *RangeReaderAt) refetch(off, need int64) error {
	length := int64(firstFetch)
	switch {
	case off == r.pos && r.run > 0: // the run goes on
		length = min(2*r.run, lastFetch)
	case r.expected > 0:
		length, r.expected = r.expected, 0
	default:
		length = need
	}
	length = min(max(length, need), r.size-off)
	if err := r.drop(); err != nil {
		return err
	}
	stream, err := r.fetch(off, length)
	if err != nil {
		return err
	}
	r.stream, r.pos, r.end, r.run = stream, off, off+length, max(length, firstFetch)
	return nil
}

func (r *RangeReaderAt) fetchAlone(p []byte, off int64) (n int, err error) {
	stream, err := r.fetch(off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	n, err = io.ReadFull(stream, p)
	if err != nil {
		err = cutShort(err)
	}
	return n, errors.Join(err, stream.Close())
}

func cutShort(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (r *RangeReaderAt) drop() error {
	if r.stream == nil {
		return nil
	}
	err := r.stream.Close()
	r.stream = nil
	return err
}

// Close ends the fetch that is open.
func (r *RangeReaderAt) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drop()
}

// Open implements RangeStorage. An object that is replaced while it is open stays the old one.
func (f *Folder) Open(ctx context.Context, key string) (StoredObject, error) {
	file, err := f.open(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("folder storage: open %s: %w", key, err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("folder storage: open %s: %w", key, errors.Join(err, file.Close()))
	}
	return &storedFile{file, info}, nil
}

type storedFile struct {
	*os.File
	info fs.FileInfo
}

func (f *storedFile) Size() int64        { return f.info.Size() }
func (f *storedFile) ModTime() time.Time { return f.info.ModTime() }
