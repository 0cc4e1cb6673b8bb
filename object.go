package pikokms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/pikov2"
	"piko.sh/pikokms/provider"
)

func (h *Host) reverse(ctx context.Context, key string, stored io.Reader) (io.Reader, error) {
	start, whole, err := sniff(stored)
	if err != nil {
		return nil, err
	}
	switch kind, err := h.kindOf(start); {
	case err != nil:
		return nil, err
	case kind == plaintext:
		return &unencrypted{whole}, nil
	case kind == pikoV2Stream:
		return h.registry.Reverse(ctx, whole, nil) // it is bound to no name
	}
	return h.registry.Reverse(ctx, whole, h.bound(key))
}

// kind is what a stored object is.
type kind int

const (
	encryptedMessage kind = iota
	pikoV2Stream
	plaintext
)

// kindOf tells what the object that begins with start is, of the kinds that the host reads.
func (h *Host) kindOf(start []byte) (kind, error) {
	switch isPikoV2 := pikov2.Sniff(start); {
	case header.Sniff(start):
		return encryptedMessage, nil
	case isPikoV2 && h.decrypter.AllowPikoV2:
		return pikoV2Stream, nil
	case h.allowPlaintext:
		return plaintext, nil
	case isPikoV2:
		return 0, fmt.Errorf("%w: %w: AllowPikoV2 lets it be read", provider.ErrInvalidCiphertext, message.ErrPikoV2)
	}
	return 0, fmt.Errorf("%w: it does not begin as an AWS Encryption SDK message; AllowPlaintext lets objects from before encryption be read", ErrPlaintext)
}

// unencrypted is an object from before encryption.
type unencrypted struct{ io.Reader }

// sniff returns the first bytes of a stored object, and the whole of it.
func sniff(stored io.Reader) (start []byte, whole io.Reader, err error) {
	start = make([]byte, header.SniffSize)
	n, err := io.ReadFull(stored, start)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, nil, err
	}
	return start[:n], io.MultiReader(bytes.NewReader(start[:n]), stored), nil
}

type object struct {
	io.Reader
	stored io.Closer
}

func (o *object) Close() error { return o.stored.Close() }

// WriteTo implements io.WriterTo, so that io.Copy takes what the last stage offers.
func (o *object) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, o.Reader) }

// ErrNotSeekable means that an object can only be read from its beginning to its end: it is signed, unframed, compressed by a
// stage that has no random access, or of Piko's old format; or its storage is no RangeStorage.
var ErrNotSeekable = errors.New("no random access")

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
	return h.EncryptObjectWith(ctx, key, content, nil)
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
