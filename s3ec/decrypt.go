package s3ec

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/internal/gcm"
	"piko.sh/pikokms/internal/secret"
	"piko.sh/pikokms/provider"
)

// ErrUnauthenticated means that nothing shows whether an object's content is what was encrypted,
// and that such objects may not be read.
var ErrUnauthenticated = errors.New("its content is of AES-CBC, which is not authenticated: who can write to the bucket can change it")

// Config configures how objects of the client are read.
type Config struct {
	// AllowUnauthenticated also reads AES-CBC, as version 1 of the client wrote it. Whoever can
	// write to the bucket can change such an object, and that goes unnoticed. Set it only to move
	// them, where nobody else could write.
	AllowUnauthenticated bool

	// MaxMemory bounds the bytes of all objects that are being decrypted at the same time. An object
	// waits until there is room for it. 0 means a GiB, which all Openers of the process without a
	// bound of their own share.
	MaxMemory int64
}

// Stored is an interface of what a storage returns, from Get or Open, if the storage can find out
// which of its objects the client wrote.
type Stored interface {
	// S3ECHeader returns what the object's metadata and its instruction file say, or nil if the
	// client did not write it. Metadata are always looked at, and an instruction file is looked for
	// if they ask for one or if beside is true. The error holds ErrInstruction for an instruction
	// file.
	S3ECHeader(ctx context.Context, beside bool) (*Header, error)
}

// Moved is what is stored in the place of an object of the client. A storage then removes the
// client's metadata, and its instruction file once the new object is there.
type Moved struct {
	io.Reader          // of the new object
	Content   *Content // of the old one, from which it is made
}

// Content is the plaintext of an object, all of which was verified, if the object authenticates its
// content. Closing it gives its memory back, and so does reading it to its end by Read. Further
// reads of what is before the end then fail with [provider.ErrClosed]. It is for one goroutine.
type Content struct {
	*io.SectionReader // of bytes in memory
	Header            *Header

	release func()
}

// Read reads on. At the end it gives the memory back.
func (c *Content) Read(p []byte) (int, error) {
	n, err := c.SectionReader.Read(p)
	if err == io.EOF {
		_ = c.Close() // never fails
	}
	return n, err
}

// Close gives the memory back. A second Close does nothing.
func (c *Content) Close() error {
	at, _ := c.Seek(0, io.SeekCurrent) // never fails
	c.SectionReader = io.NewSectionReader(gone{}, 0, c.Size())
	_, _ = c.Seek(at, io.SeekStart) // never fails
	c.release()
	return nil
}

// gone stands for content whose memory was given back.
type gone struct{}

func (gone) ReadAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("s3ec: the content was closed, or read to its end: %w", provider.ErrClosed)
}

// Opener returns a function that reads the object of a header from body, to its end, and decrypts
// it. All that it opens shares the memory of the Config. It asks the keyrings that are
// provider.S3ECKeyring for the data key, in their order; the first that can unwraps it. The
// encryption context must have each of the stated pairs.
//
// The error holds ErrUnauthenticated, ErrMemory, provider.ErrContextMismatch,
// provider.ErrUntrustedKey, provider.ErrDecryptionFailed or provider.ErrInvalidCiphertext, or is a
// keyring's or body's.
func Opener(c Config) func(ctx context.Context, h *Header, body io.Reader, keyrings []provider.Unwrapper, stated map[string]string) (*Content, error) {
	o := &opener{c.AllowUnauthenticated, sharedMemory}
	if c.MaxMemory != 0 {
		o.memory = newMemory(c.MaxMemory)
	}
	return o.open
}

type opener struct {
	allowUnauthenticated bool
	memory               *memory
}

func (o *opener) open(ctx context.Context, h *Header, body io.Reader, keyrings []provider.Unwrapper, stated map[string]string) (*Content, error) {
	if !h.Authenticates() && !o.allowUnauthenticated {
		return nil, ErrUnauthenticated
	}
	if err := h.checkStated(stated); err != nil {
		return nil, err
	}
	if h.Authenticates() && h.size < gcm.TagSize || !h.Authenticates() && (h.size <= 0 || h.size%aes.BlockSize != 0) {
		return nil, malformed("no object of it has %d bytes", h.size)
	}
	if err := o.memory.take(ctx, h.size); err != nil {
		return nil, err
	}
	release := sync.OnceFunc(func() { o.memory.give(h.size) })
	content, err := h.open(ctx, body, keyrings)
	if err != nil {
		release()
		return nil, err
	}
	opened := &Content{io.NewSectionReader(bytes.NewReader(content), 0, int64(len(content))), h, release}
	runtime.AddCleanup(opened, func(release func()) { release() }, release)
	return opened, nil
}

// checkStated checks the pairs that a caller states.
func (h *Header) checkStated(stated map[string]string) error {
	for name, value := range stated {
		if h.Context == nil {
			return fmt.Errorf("%w: its data key is wrapped by %s, which authenticates no pairs; state none", provider.ErrContextMismatch, h.Wrapping)
		}
		if found, ok := h.Context[name]; !ok || found != value {
			return fmt.Errorf("%w: it has no pair %q of that value", provider.ErrContextMismatch, name)
		}
	}
	return nil
}

// open returns the plaintext of the object in body.
func (h *Header) open(ctx context.Context, body io.Reader, keyrings []provider.Unwrapper) ([]byte, error) {
	key, err := h.unwrap(ctx, keyrings)
	if err != nil {
		return nil, err
	}
	defer func() { _ = key.Close() }()
	stored := make([]byte, h.size)
	source := &checked.Reader{Context: ctx, Source: body}
	if _, err := source.ReadFull(stored); err == io.EOF {
		return nil, fmt.Errorf("the object ended before its %d bytes: %w", h.size, io.ErrUnexpectedEOF)
	} else if err != nil {
		return nil, err
	}
	if n, err := source.ReadFull(make([]byte, 1)); n > 0 || err != io.EOF {
		if n == 0 {
			return nil, err
		}
		return nil, malformed("it has more than its %d bytes", h.size)
	}
	var content []byte
	err = key.WithAccess(func(key []byte) (err error) {
		secret.Do(func() { content, err = h.decrypt(key, stored) })
		return err
	})
	return content, err
}

// unwrap asks keyrings for the data key.
func (h *Header) unwrap(ctx context.Context, keyrings []provider.Unwrapper) (*provider.SecureBytes, error) {
	wrapped := &provider.S3ECDataKey{Algorithm: h.Wrapping, Content: h.Content, Ciphertext: h.ciphertext}
	if h.Context != nil {
		wrapped.Context = h.Described
	}
	var failures []error
	for _, keyring := range keyrings {
		client, ok := keyring.(provider.S3ECKeyring)
		if !ok {
			continue
		}
		key, err := client.UnwrapS3EC(ctx, wrapped)
		switch {
		case err == nil && key.Len() != provider.DataKeySize:
			failures = append(failures, errors.Join(fmt.Errorf("%w: its data key has not %d bytes", provider.ErrDecryptionFailed, provider.DataKeySize), key.Close()))
		case err == nil:
			return key, nil
		case ctx.Err() != nil:
			return nil, err
		case !errors.Is(err, provider.ErrUntrustedKey):
			failures = append(failures, err)
		}
	}
	if failures == nil {
		return nil, fmt.Errorf("%w: AWS's S3 Encryption Client wrapped its data key by %s; give it the key, which the object does not name, as awskms://… or local:…", provider.ErrUntrustedKey, h.Wrapping)
	}
	return nil, errors.Join(failures...)
}

var errChanged = fmt.Errorf("%w: another key, or a changed object", provider.ErrDecryptionFailed)

// decrypt decrypts content in its place.
func (h *Header) decrypt(key, stored []byte) (content []byte, err error) {
	iv, additional := h.iv, []byte(nil)
	switch {
	case !h.Authenticates():
		return h.decryptCBC(key, stored)
	case h.Format == 3:
		if key, err = h.derive(key); err != nil {
			return nil, err
		}
		defer clear(key)
		iv, additional = []byte("\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01"), []byte(suiteID)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	if content, err = aead.Open(stored[:0], iv, stored, additional); err != nil {
		return nil, errChanged
	}
	return content, nil
}

// suiteID is the number of format 3's only suite.
const suiteID = "\x00\x73"

// derive checks that the object commits to the data key, and returns the key of its content
// (specification: s3-encryption/key-derivation.md).
func (h *Header) derive(dataKey []byte) ([]byte, error) {
	commitment, err := hkdf.Key(sha512.New, dataKey, h.iv, suiteID+"COMMITKEY", commitmentSize)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(commitment, h.commitment) != 1 {
		return nil, fmt.Errorf("%w: it does not commit to its data key", errChanged)
	}
	return hkdf.Key(sha512.New, dataKey, h.iv, suiteID+"DERIVEKEY", provider.DataKeySize)
}

func (h *Header) decryptCBC(key, stored []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	cipher.NewCBCDecrypter(block, h.iv).CryptBlocks(stored, stored)
	padding := int(stored[len(stored)-1])
	if padding < 1 || padding > aes.BlockSize {
		return nil, errChanged
	}
	for _, b := range stored[len(stored)-padding:] {
		if int(b) != padding {
			return nil, errChanged
		}
	}
	return stored[:len(stored)-padding], nil
}
