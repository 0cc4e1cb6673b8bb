package pikokms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"sync"
	"time"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/pikov2"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/s3ec"
)

// reverse returns the original of a stored object, whose encryption context must have the stated
// pairs.
func (h *Host) reverse(ctx context.Context, key string, stored io.Reader, stated map[string]string) (io.Reader, error) {
	kind, whole, err := h.kindOf(ctx, stored, stored)
	switch {
	case err != nil:
		return nil, err
	case kind.client != nil:
		return h.decryptS3EC(ctx, kind.client, whole, stated)
	case kind == plaintext && len(stated) > 0:
		return nil, errNoPairs
	case kind == plaintext:
		return &unencrypted{whole}, nil
	case kind == encryptedMessage: // a stream of Piko's is bound to no name
		if stated, err = h.withName(key, stated); err != nil {
			return nil, err
		}
	}
	content, err := h.registry.reverse(ctx, whole, stated)
	return content, h.nameOptions(err)
}

var errNoPairs = fmt.Errorf("%w: the object is not encrypted, so it has no pairs", provider.ErrContextMismatch)

// withName returns pairs and those that bind an object to its name. If pairs has another value for
// one of these, the error holds provider.ErrContextMismatch.
func (h *Host) withName(key string, pairs map[string]string) (map[string]string, error) {
	all := h.bound(key)
	if all == nil {
		all = make(map[string]string, len(pairs))
	}
	for name, value := range pairs {
		if bound, ok := all[name]; ok && bound != value {
			return nil, fmt.Errorf("%w: the pair %q binds the object to %q, and %q was stated", provider.ErrContextMismatch, name, bound, value)
		}
		all[name] = value
	}
	return all, nil
}

// kind is the kind of a stored object.
type kind struct {
	number int
	client *s3ec.Header // of an object of the S3 Encryption Client
}

var (
	encryptedMessage = kind{number: 0}
	pikoV2Stream     = kind{number: 1}
	plaintext        = kind{number: 2}
)

// kindOf returns the kind of a stored object whose beginning is in begin, and a reader of all bytes
// of begin. It refuses kinds that the host does not read. If stored is an s3ec.Stored, kindOf asks
// it whether the S3 Encryption Client wrote the object. For that, the storage looks for an
// instruction file, unless the object is a message.
func (h *Host) kindOf(ctx context.Context, stored any, begin io.Reader) (kind, io.Reader, error) {
	start, whole, err := sniff(begin)
	if err != nil {
		return kind{}, nil, err
	}
	if known, ok := stored.(s3ec.Stored); ok {
		client, err := known.S3ECHeader(ctx, !header.Sniff(start))
		switch {
		case err != nil:
			return kind{}, nil, err
		case client != nil && h.openS3EC == nil:
			return kind{}, nil, fmt.Errorf("%w; AllowS3EncryptionClient lets it be read", s3ec.ErrS3EncryptionClient)
		case client != nil:
			return kind{client: client}, whole, nil
		}
	}
	switch isPikoV2 := pikov2.Sniff(start); {
	case header.Sniff(start):
		return encryptedMessage, whole, nil
	case isPikoV2 && h.decrypter.AllowPikoV2:
		return pikoV2Stream, whole, nil
	case h.allowPlaintext:
		return plaintext, whole, nil
	case h.services == nil: // the Decrypter of WithMessages says what is wrong
		return encryptedMessage, whole, nil
	case isPikoV2:
		return kind{}, nil, fmt.Errorf("%w: %w: AllowPikoV2 lets it be read", provider.ErrInvalidCiphertext, message.ErrPikoV2)
	}
	return kind{}, nil, fmt.Errorf("%w: it does not begin as an AWS Encryption SDK message; AllowPlaintext lets objects from before encryption be read", ErrPlaintext)
}

// openS3EC is a function of s3ec.Opener.
type openS3EC func(ctx context.Context, h *s3ec.Header, body io.Reader, keyrings []provider.Unwrapper, stated map[string]string) (*s3ec.Content, error)

// decryptS3EC decrypts an object of the S3 Encryption Client.
func (h *Host) decryptS3EC(ctx context.Context, client *s3ec.Header, stored io.Reader, stated map[string]string) (*s3ec.Content, error) {
	content, err := h.openS3EC(ctx, client, stored, h.decrypter.Keyrings, stated)
	if err != nil {
		return nil, err // content would be an io.Reader that holds a nil pointer
	}
	return content, nil
}

// closeContent gives back the memory of an object of the S3 Encryption Client.
func closeContent(content io.Reader) {
	if client, ok := content.(*s3ec.Content); ok {
		_ = client.Close() // never fails
	}
}

// nameOptions adds the name of the host's option to the error of an object that exceeds a limit, or
// that the commitment policy refuses.
func (h *Host) nameOptions(err error) error {
	if h.services == nil { // those of WithMessages are not the host's
		return err
	}
	if errors.Is(err, message.ErrCommitmentPolicy) {
		return fmt.Errorf("%w; WithCommitmentPolicy sets the policy", err)
	}
	limit, ok := errors.AsType[*header.LimitError](err)
	if !ok {
		return err
	}
	named := *limit
	named.Option = limit.Limit + " of WithHeaderLimits"
	if errors.Is(err, provider.ErrInvalidCiphertext) && limit.Limit != "MaxAttempts" {
		return fmt.Errorf("%w: %w", provider.ErrInvalidCiphertext, &named)
	}
	return fmt.Errorf("%w; %s sets it", err, named.Option) // err also holds the errors of the attempts
}

// unencrypted is an object from before encryption.
type unencrypted struct{ io.Reader }

// sniff returns the first header.SniffSize bytes of a stored object, or all if it is smaller, and a
// reader of the whole. A failure of the storage stays a failure, even if the storage then returns
// io.EOF.
func sniff(stored io.Reader) (start []byte, whole io.Reader, err error) {
	rest := &checked.Reader{Source: stored}
	start = make([]byte, header.SniffSize)
	n, err := rest.ReadFull(start)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	start = start[:n]
	return start, io.MultiReader(bytes.NewReader(start), rest), nil
}

type object struct {
	io.Reader
	close func() error
}

// Close closes the stored object. A second Close returns the first one's result.
func (o *object) Close() error { return o.close() }

// WriteTo makes io.Copy use the WriteTo of the last transformer.
func (o *object) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, o.Reader) }

// ErrNotSeekable means that an object can only be read from its beginning to its end: it is signed,
// unframed, in Piko's old format, or compressed by a transformer without random access, or its
// storage is no RangeStorage.
var ErrNotSeekable = errors.New("no random access")

// original is the original of a stored object.
type original struct {
	*io.SectionReader
	modTime time.Time
	close   func() error
}

func (o *original) ModTime() time.Time { return o.modTime }
func (o *original) Close() error       { return o.close() }

// Open opens an object for random access, with one call of the key service. Each read decrypts the
// frames that it touches and no others. A few of them are kept for reads in a row. Each frame is
// verified when it is read. The size is certain, since Open verifies the final frame. An object of
// AWS's S3 Encryption Client is in memory until Close.
//
// The error holds ErrNotSeekable, or is one of Get's. When ctx ends, reads fail. If the object is
// replaced while it is open, reads give the old one or fail.
func (h *Host) Open(ctx context.Context, key string) (Object, error) {
	stored, err := h.openStored(ctx, "open", key)
	if err != nil {
		return nil, err
	}
	opened, err := h.OpenObject(ctx, key, stored, nil)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", key, errors.Join(err, stored.Close()))
	}
	return opened, nil
}

// Stat returns the size and the time of an object, and the last part of its key as its name. It
// reads the beginning of the stored object and asks no key service, so the size is not
// authenticated. It is -1 if it is known only after decryption: for compressed and signed objects,
// and those of Piko's old format.
//
// The error holds ErrNotSeekable if the storage is no RangeStorage, or is one of Get's.
func (h *Host) Stat(ctx context.Context, key string) (fs.FileInfo, error) {
	stored, err := h.openStored(ctx, "stat", key)
	if err != nil {
		return nil, err
	}
	info, err := h.statStored(ctx, key, stored)
	if err := errors.Join(err, stored.Close()); err != nil {
		return nil, fmt.Errorf("stat %s: %w", key, err)
	}
	return info, nil
}

// statStored returns what a stored object states.
func (h *Host) statStored(ctx context.Context, key string, stored Object) (fileInfo, error) {
	size, err := h.statedSize(ctx, stored, io.NewSectionReader(stored, 0, stored.Size()), stored.Size())
	return fileInfo{name: path.Base(key), size: size, modTime: stored.ModTime()}, err
}

// openStored opens what is stored under key.
func (h *Host) openStored(ctx context.Context, doing, key string) (Object, error) {
	storage, ok := h.storage.(RangeStorage)
	if !ok {
		return nil, fmt.Errorf("%s %s: %w: the storage %T is no RangeStorage", doing, key, ErrNotSeekable, h.storage)
	}
	return storage.Open(ctx, key)
}

// EncryptObject returns what PutWith would store for content under key, for a storage that the
// caller drives. The object is complete only when it is read to io.EOF. After an error, or if
// reading stops before, the storage must keep nothing. The errors are PutWith's.
func (h *Host) EncryptObject(ctx context.Context, key string, content io.Reader, encryptionContext map[string]string) (*message.EncryptReader, error) {
	stated := maps.Clone(encryptionContext)
	if h.services == nil && h.bucket == "" {
		for _, required := range h.encrypter.Required { // such as the pairs of another host's BindObjectName
			delete(stated, required)
		}
	}
	if err := provider.CheckStated(stated); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidOptions, err)
	}
	pairs, err := h.withName(key, encryptionContext)
	if err != nil {
		return nil, err
	}
	sealed, err := h.chain.transform(ctx, content, pairs)
	if err != nil {
		return nil, err
	}
	return sealed.(*message.EncryptReader), nil // the encryption transformer of New comes last
}

// DecryptObject returns what Get would return for an object of size bytes that is stored under key.
// The object's encryption context must have each pair of encryptionContext, which may be nil, or
// the error holds provider.ErrContextMismatch. DecryptObject also returns the original's size in
// bytes, or -1 if it is not known beforehand. That size follows from the stated one, and is not
// authenticated until the content is read to its end. The errors are Get's.
func (h *Host) DecryptObject(ctx context.Context, key string, stored io.Reader, size int64, encryptionContext map[string]string) (content io.Reader, contentSize int64, err error) {
	content, err = h.reverse(ctx, key, stored, encryptionContext)
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
	case *s3ec.Content:
		contentSize = r.Size()
	}
	return content, contentSize, nil
}

// StatedSize returns the size in bytes of the original of a stored object of size bytes, as the
// object's header states it. It returns -1 if the size is not known without decrypting. It asks no
// key service, so the result is not authenticated. It reads start, the beginning of the stored
// object, as far as the header's end. If start is no object, the error is one of Get's. Otherwise
// it is start's own.
func (h *Host) StatedSize(start io.Reader, size int64) (int64, error) {
	return h.statedSize(context.Background(), start, start, size)
}

func (h *Host) statedSize(ctx context.Context, stored any, start io.Reader, size int64) (int64, error) {
	kind, whole, err := h.kindOf(ctx, stored, start)
	switch {
	case err != nil:
		return 0, err
	case kind.client != nil:
		return kind.client.PlaintextSize(), nil
	case kind == plaintext:
		return size, nil
	case kind == pikoV2Stream:
		return -1, nil
	}
	parsed, err := h.ReadHeader(whole)
	if err != nil {
		return 0, err
	}
	if err := h.decrypter.Accept(parsed); err != nil {
		return 0, err
	}
	if parsed.EncryptionContext[PairTransformers] != "" || parsed.Suite.Signed() {
		return -1, nil
	}
	n, err := message.PlaintextSize(parsed, size)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", provider.ErrInvalidCiphertext, err)
	}
	return n, nil
}

// ReadHeader reads the header of a stored object, within the limits of WithHeaderLimits, and no
// more. It asks no key service, so nothing in the header is authenticated. The error holds
// provider.ErrInvalidCiphertext if there is no whole header within the limits. Otherwise it is
// stored's own.
func (h *Host) ReadHeader(stored io.Reader) (*header.Header, error) {
	parsed, err := message.ReadHeader(stored, h.decrypter.Limits)
	return parsed, h.nameOptions(err)
}

// BindsNames reports whether objects are bound to their keys, as by BindObjectName.
func (h *Host) BindsNames() bool { return h.bucket != "" }

// AllowsPlaintext reports whether objects that are not encrypted are read, as with AllowPlaintext.
func (h *Host) AllowsPlaintext() bool { return h.allowPlaintext }

// OpenObject opens an object for random access, as Open does, from a stored object that the caller
// has opened. The encryption context is as in DecryptObject. Closing the result closes stored. If
// there is an error, stored stays open.
func (h *Host) OpenObject(ctx context.Context, key string, stored Object, encryptionContext map[string]string) (Object, error) {
	kind, whole, err := h.kindOf(ctx, stored, io.NewSectionReader(stored, 0, stored.Size()))
	switch {
	case err != nil:
		return nil, err
	case kind.client != nil:
		content, err := h.decryptS3EC(ctx, kind.client, whole, encryptionContext)
		if err != nil {
			return nil, err
		}
		return &original{content.SectionReader, stored.ModTime(), sync.OnceValue(func() error {
			closeContent(content)
			return stored.Close()
		})}, nil
	case kind == plaintext && len(encryptionContext) > 0:
		return nil, errNoPairs
	case kind == plaintext:
		return stored, nil
	case kind == pikoV2Stream:
		return nil, fmt.Errorf("%w: Piko's old format can only be read from its beginning", ErrNotSeekable)
	}
	pairs, err := h.withName(key, encryptionContext)
	if err != nil {
		return nil, err
	}
	content, err := h.registry.open(ctx, stored, pairs)
	if err != nil {
		return nil, h.nameOptions(err)
	}
	return &original{content, stored.ModTime(), sync.OnceValue(stored.Close)}, nil
}
