package message

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/internal/signature"
	"piko.sh/pikokms/provider"
)

// Encrypter encrypts messages. It is safe for concurrent use, but its fields must not change once
// it is in use.
type Encrypter struct {
	// Keyring makes each message's data key with one call of its key service. Without one, nothing
	// is encrypted, and the error holds provider.ErrInvalidProvider.
	Keyring provider.Wrapper

	// Recipients are further keyrings, each of which can decrypt alone. The data key of a message
	// with recipients comes from crypto/rand. Keyring and all Recipients wrap it at the same time.
	Recipients []provider.Wrapper

	// FrameLength is the number of bytes of plaintext in a frame, up to 64 MiB; 0 means
	// header.DefaultFrameLength, 65,536. A stream on one core holds one frame in memory.
	FrameLength int

	// Suite is one of the two suites with key commitment; 0 means
	// header.AES256GCMHKDFSHA512CommitKey. The signed suite costs an ECDSA signature for each
	// message, and a verification for each reader.
	Suite header.Suite

	// Required are keys of pairs of the encryption context that are authenticated but not stored in
	// the message. Whoever decrypts must state them again (specification:
	// framework/required-encryption-context-cmm.md).
	Required []string

	CommitmentPolicy CommitmentPolicy

	// Parallelism is the most goroutines that seal a stream's frames. 1 keeps every stream on one
	// core, and its memory at one frame. 0 uses the cores that are free, at most 8, once a stream is
	// longer than 1 MiB. All streams of the process that encrypt or compress share these cores.
	// Signed messages stay on one core.
	//
	// Several goroutines only work within a call of WriteTo or ReadFrom, or of Read or Write with
	// 512 KiB or more, and none outlives its call. Each takes 256 KiB of frames at a time, 512 KiB
	// after the first 16 MiB, or one frame if that is longer. At most Parallelism + 4 such batches
	// are in memory, each as input and as output.
	Parallelism int
}

// started is a message with a sealed header.
type started struct {
	header *header.Header
	frames frame.Config
	signer *signature.Signer // nil for an unsigned suite
	count  func(bytes int)   // counts the data key's use; may be nil
}

// draft is a header without a data key.
type draft struct {
	header.Header
	messageID [32]byte
	key       [1]header.EncryptedDataKey // used if there is only one data key

	all, unstored map[string]string // the encryption context, and those pairs that are not stored
	signer        *signature.Signer // nil for an unsigned suite
}

// start makes a message's header and the cipher of its frames.
func (e *Encrypter) start(ctx context.Context, encryptionContext map[string]string) (started, error) {
	h, err := e.draft(encryptionContext)
	if err != nil {
		return started{}, refused(err)
	}
	dataKey, err := e.dataKey(ctx, h)
	if err != nil {
		return started{}, err
	}
	defer dataKey.Close()
	c := frame.Config{MessageID: h.MessageID, Length: int(h.FrameLength), Parallelism: e.Parallelism}
	err = dataKey.PlaintextKey.WithAccess(func(key []byte) (err error) {
		if c.AEAD, h.Commitment, err = h.Suite.DeriveKeys(key, h.MessageID); err != nil {
			return err
		}
		return h.Seal(c.AEAD, h.unstored)
	})
	if err != nil {
		return started{}, refused(err)
	}
	if h.signer != nil {
		_, _ = h.signer.Write(h.Bytes()) // never fails
		c.Digest = h.signer
	}
	return started{&h.Header, c, h.signer, dataKey.Count}, nil
}

// refused returns the error for a message that can't be written, or that no reader would accept.
func refused(err error) error {
	if limit, ok := errors.AsType[*header.LimitError](err); ok {
		unnamed := *limit
		unnamed.Option = "" // no option sets the limits of writers
		err = fmt.Errorf("readers would refuse it: %w", &unnamed)
	}
	return fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err)
}

// draft makes as much of a header as is possible without a data key. It checks everything that can
// be checked before a key service is asked.
func (e *Encrypter) draft(encryptionContext map[string]string) (*draft, error) {
	h := new(draft)
	h.Suite, h.MessageID, h.ContentType = e.Suite, h.messageID[:], header.Framed
	if h.Suite == 0 {
		h.Suite = header.AES256GCMHKDFSHA512CommitKey
	}
	if !h.Suite.Commits() {
		return nil, fmt.Errorf("writing algorithm suite %v: %w", h.Suite, header.ErrUnsupported)
	}
	if err := e.CommitmentPolicy.allowEncrypt(h.Suite); err != nil {
		return nil, err
	}
	h.FrameLength = header.DefaultFrameLength
	if e.FrameLength != 0 {
		if most := (header.Limits{}).WithDefaults().MaxFrameLength; e.FrameLength < 0 || e.FrameLength > most {
			return nil, fmt.Errorf("frame length %d is not between 1 and %d bytes", e.FrameLength, most)
		}
		h.FrameLength = uint32(e.FrameLength)
	}
	if err := header.CheckContext(encryptionContext); err != nil {
		return nil, err
	}
	h.all = maps.Clone(encryptionContext)
	if h.Suite.Signed() {
		if err := h.sign(); err != nil {
			return nil, err
		}
	}
	if err := h.leaveOut(e.Required, encryptionContext); err != nil {
		return nil, err
	}
	h.EncryptedDataKeys = h.key[:]
	if len(e.Recipients) > 0 {
		h.EncryptedDataKeys = make([]header.EncryptedDataKey, 1+len(e.Recipients))
	}
	if err := (header.Limits{}).Check(&h.Header); err != nil {
		return nil, err
	}
	_, _ = rand.Read(h.MessageID) // never fails
	return h, nil
}

// sign makes the message's signing key and adds its pair to the encryption context.
func (h *draft) sign() error {
	signer, publicKey, err := signature.NewSigner(h.Suite)
	if err != nil {
		return err
	}
	if h.all == nil {
		h.all = make(map[string]string)
	}
	h.signer, h.all[header.PublicKeyName] = signer, publicKey
	return nil
}

// leaveOut moves the required pairs out of the stored encryption context.
func (h *draft) leaveOut(required []string, stated map[string]string) error {
	h.EncryptionContext = h.all
	if len(required) == 0 {
		return nil
	}
	h.EncryptionContext, h.unstored = maps.Clone(h.all), make(map[string]string)
	for _, name := range required {
		value, ok := stated[name]
		if !ok {
			return fmt.Errorf("%w: the required pair %q is not stated", provider.ErrContextMismatch, name)
		}
		delete(h.EncryptionContext, name)
		h.unstored[name] = value
	}
	return nil
}

// NewReader returns a message with the plaintext of src, as a pull stream. It asks the key service
// for the data key; after that no key service is asked. When ctx ends, reading fails. Bytes that
// are in memory already, as those of a bytes.Reader or bytes.Buffer, are not copied: do not change
// them meanwhile. The encryption context is authenticated, stored and visible. It may be nil.
//
// Errors are the keyring's, or hold provider.ErrEncryptionFailed.
func (e *Encrypter) NewReader(ctx context.Context, src io.Reader, encryptionContext map[string]string) (*EncryptReader, error) {
	m, err := e.start(ctx, encryptionContext)
	if err != nil {
		return nil, err
	}
	r := &EncryptReader{source: newSource(ctx, src, m.count), header: m.header, out: m.header.Bytes(), signer: m.signer}
	r.body = frame.NewSealReader(&r.source, m.frames)
	return r, nil
}

// NewWriter writes a header to dst and returns a push stream for the plaintext. The message is
// complete only when Close returns nil. Close does not close dst. The rest is as in NewReader.
func (e *Encrypter) NewWriter(ctx context.Context, dst io.Writer, encryptionContext map[string]string) (*EncryptWriter, error) {
	m, err := e.start(ctx, encryptionContext)
	if err != nil {
		return nil, err
	}
	w := &EncryptWriter{ctx: ctx, dst: destination{ctx, dst, m.count}, header: m.header, signer: m.signer}
	if _, err := w.dst.Write(m.header.Bytes()); err != nil {
		return nil, fmt.Errorf("message: writing the header: %w", err)
	}
	w.body = frame.NewSealWriter(&w.dst, m.frames)
	return w, nil
}
