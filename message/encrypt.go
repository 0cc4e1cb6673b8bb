package message

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"maps"

	"piko.sh/pikokms/frame"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/memory"
	"piko.sh/pikokms/provider"
)

// An Encrypter encrypts messages. It must not be changed once in use, and is then safe for concurrent use.
type Encrypter struct {
	Keyring     provider.Keyring   // makes each message's data key
	Recipients  []provider.Keyring // further keyrings that wrap the same data key, so that each can decrypt alone
	FrameLength int                // bytes of plaintext in a frame, up to 64 MiB; 0 means 65,536

	// Suite is one of the two suites that commit; 0 means header.AES256GCMHKDFSHA512CommitKey. The signed one costs an
	// ECDSA signature for each message, and a verification for each reading.
	Suite header.Suite

	// Required names pairs of the encryption context that are authenticated but not stored in the message: who decrypts must
	// state them again (specification: framework/required-encryption-context-cmm.md).
	Required []string

	CommitmentPolicy CommitmentPolicy

	// Parallelism is the most goroutines that seal a stream's frames, as in frame.Config: 1 keeps every stream on one core and
	// its memory at one frame; 0 takes the cores that are free, at most frame.MaxDefaultParallelism, once a stream has come past
	// 1 MiB. Signed messages stay on one core.
	Parallelism int
}

// started is a message whose header is sealed.
type started struct {
	header *header.Header
	frames frame.Config
	signer *header.Signer  // nil for a suite without a signature
	count  func(bytes int) // of the data key; may be nil
}

// start makes a message's header and the cipher of its frames.
func (e *Encrypter) start(ctx context.Context, encryptionContext map[string]string) (started, error) {
	refuse := func(err error) (started, error) { return started{}, err }
	var made struct { // in one piece
		header.Header
		messageID [32]byte
		key       [1]header.EncryptedDataKey // where there is but one
	}
	h := &made.Header
	h.Suite, h.MessageID, h.ContentType = e.Suite, made.messageID[:], header.Framed
	if h.Suite == 0 {
		h.Suite = header.AES256GCMHKDFSHA512CommitKey
	}
	if !h.Suite.Commits() {
		return refuse(fmt.Errorf("%w: writing algorithm suite %v: %w", provider.ErrEncryptionFailed, h.Suite, header.ErrUnsupported))
	}
	if err := e.CommitmentPolicy.allowEncrypt(h.Suite); err != nil {
		return refuse(fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err))
	}
	frameLength := e.FrameLength
	if frameLength == 0 {
		frameLength = header.DefaultFrameLength
	}
	if frameLength < 0 || frameLength > header.MaxFrameLength {
		return refuse(fmt.Errorf("message: frame length %d is not between 1 and %d bytes: %w", frameLength, header.MaxFrameLength, provider.ErrEncryptionFailed))
	}
	h.FrameLength = uint32(frameLength)
	if n := 1 + len(e.Recipients); n > header.DefaultMaxEncryptedDataKeys {
		return refuse(fmt.Errorf("message: %d keyrings, readers take %d encrypted data keys: %w", n, header.DefaultMaxEncryptedDataKeys, provider.ErrEncryptionFailed))
	}
	if err := header.CheckContext(encryptionContext); err != nil {
		return refuse(fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err))
	}
	all := maps.Clone(encryptionContext)
	var signer *header.Signer
	if h.Suite.Signed() {
		var publicKey string
		var err error
		if signer, publicKey, err = header.NewSigner(h.Suite); err != nil {
			return refuse(err)
		}
		if all == nil {
			all = make(map[string]string)
		}
		all[header.PublicKeyName] = publicKey
	}
	h.EncryptionContext = all
	var unstored map[string]string
	if len(e.Required) > 0 {
		h.EncryptionContext, unstored = maps.Clone(all), make(map[string]string)
		for _, name := range e.Required {
			value, ok := encryptionContext[name]
			if !ok {
				return refuse(fmt.Errorf("%w: %w: the required pair %q is not stated", provider.ErrEncryptionFailed, provider.ErrContextMismatch, name))
			}
			delete(h.EncryptionContext, name)
			unstored[name] = value
		}
	}
	_, _ = rand.Read(h.MessageID) // never fails

	dataKey, err := e.Keyring.GenerateDataKey(ctx, &provider.GenerateDataKeyRequest{Context: all})
	if err != nil {
		return refuse(err)
	}
	defer dataKey.Close()
	h.EncryptedDataKeys = append(made.key[:0], dataKey.EncryptedKey)
	for _, recipient := range e.Recipients {
		key, err := recipient.WrapDataKey(ctx, dataKey.PlaintextKey, all)
		if err != nil {
			return refuse(err)
		}
		h.EncryptedDataKeys = append(h.EncryptedDataKeys, key)
	}

	c := frame.Config{MessageID: h.MessageID, Length: frameLength, Parallelism: e.Parallelism}
	err = dataKey.PlaintextKey.WithAccess(func(key []byte) (err error) {
		if c.AEAD, h.Commitment, err = h.Suite.DeriveKeys(key, h.MessageID); err != nil {
			return err
		}
		return h.Seal(c.AEAD, unstored)
	})
	if err != nil {
		return refuse(fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err))
	}
	if signer != nil {
		_, _ = signer.Write(h.Bytes()) // a hash.Hash never fails
		c.Digest = signer
	}
	return started{h, c, signer, dataKey.Count}, nil
}

// NewReader returns the message that holds src's plaintext, as a pull stream. A bytes.Reader or bytes.Buffer is not copied from: leave
// what it holds as it is meanwhile. The encryption context is authenticated,
// stored and visible; it may be nil. The key service is called once, here; ctx also ends the stream.
//
// Errors are the keyring's, or hold provider.ErrEncryptionFailed.
func (e *Encrypter) NewReader(ctx context.Context, src io.Reader, encryptionContext map[string]string) (*EncryptReader, error) {
	m, err := e.start(ctx, encryptionContext)
	if err != nil {
		return nil, err
	}
	r := &EncryptReader{source: contextReader{ctx, src, memory.Of(src), m.count}, header: m.header, out: m.header.Bytes(), signer: m.signer}
	r.body = frame.NewSealReader(&r.source, m.frames)
	return r, nil
}

// NewWriter writes a header to dst and returns a push stream whose plaintext follows it. Only its Close makes the message
// whole: after an error, leave it unclosed, and every reader refuses what was written. Closing it does not close dst.
// The rest is as in NewReader.
func (e *Encrypter) NewWriter(ctx context.Context, dst io.Writer, encryptionContext map[string]string) (*EncryptWriter, error) {
	m, err := e.start(ctx, encryptionContext)
	if err != nil {
		return nil, err
	}
	dst = &contextWriter{ctx, dst, m.count}
	if err := writeAll(dst, m.header.Bytes()); err != nil {
		return nil, fmt.Errorf("message: writing the header: %w", err)
	}
	return &EncryptWriter{SealWriter: frame.NewSealWriter(dst, m.frames), header: m.header, dst: dst, signer: m.signer}, nil
}

func writeAll(w io.Writer, b []byte) error {
	n, err := w.Write(b)
	if err == nil && n != len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// EncryptReader reads as a message. It is for one goroutine.
type EncryptReader struct {
	source contextReader
	header *header.Header
	out    []byte // of the header, or of the footer, still to be read
	body   *frame.SealReader
	signer *header.Signer // nil once the footer is made
}

// Header returns the message's header.
func (r *EncryptReader) Header() *header.Header { return r.header }

// EncryptedSize returns the exact size of the whole message if the source has n bytes, as the function does.
func (r *EncryptReader) EncryptedSize(n int64) (int64, error) { return EncryptedSize(r.header, n) }

// ContentLength returns the exact size in bytes of the whole message, if the source tells now how many bytes it has, before the
// first Read: by a method Len() int, as bytes.Reader has, or as an io.Seeker. Who passes it on must expect another size still, if
// the source grows or shrinks meanwhile. A signed message's size is not known.
func (r *EncryptReader) ContentLength() (n int64, known bool) {
	if len(r.out) != r.header.Size() { // reading has begun
		return 0, false
	}
	plaintext, known := r.source.remaining()
	if !known {
		return 0, false
	}
	n, err := r.EncryptedSize(plaintext)
	return n, err == nil
}

// Read implements io.Reader.
func (r *EncryptReader) Read(p []byte) (int, error) {
	if len(r.out) == 0 {
		n, err := r.body.Read(p)
		if err != io.EOF || r.signer == nil {
			return n, err
		}
		if err := r.sign(); err != nil {
			return n, err
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// sign makes the footer, behind the whole body.
func (r *EncryptReader) sign() (err error) {
	if r.out, err = r.signer.Footer(); err == nil {
		r.signer = nil
	}
	return err
}

// WriteTo implements io.WriterTo, without a copy.
func (r *EncryptReader) WriteTo(w io.Writer) (written int64, err error) {
	written, err = r.flush(w)
	if err != nil {
		return written, err
	}
	n, err := r.body.WriteTo(w)
	written += n
	if err != nil || r.signer == nil {
		return written, err
	}
	if err := r.sign(); err != nil {
		return written, err
	}
	n, err = r.flush(w)
	return written + n, err
}

func (r *EncryptReader) flush(w io.Writer) (int64, error) {
	if len(r.out) == 0 {
		return 0, nil
	}
	n, err := w.Write(r.out)
	if n < 0 || n > len(r.out) {
		return 0, fmt.Errorf("message: the destination says it wrote %d bytes of %d", n, len(r.out))
	}
	r.out = r.out[n:]
	if err == nil && len(r.out) > 0 {
		err = io.ErrShortWrite
	}
	return int64(n), err
}

// EncryptWriter encrypts what is written to it. It is for one goroutine.
type EncryptWriter struct {
	*frame.SealWriter
	header *header.Header
	dst    io.Writer
	signer *header.Signer // nil once the footer is written
	err    error          // of writing the footer
}

// Header returns the message's header.
func (w *EncryptWriter) Header() *header.Header { return w.header }

// Close seals the last frame and, in a signed message, writes the signature. A second Close does nothing.
func (w *EncryptWriter) Close() error {
	if err := w.SealWriter.Close(); err != nil {
		return err
	}
	if w.signer == nil || w.err != nil {
		return w.err
	}
	footer, err := w.signer.Footer()
	if err == nil {
		err = writeAll(w.dst, footer)
	}
	w.signer, w.err = nil, err
	return err
}
