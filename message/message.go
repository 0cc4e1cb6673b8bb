// Package message encrypts and decrypts whole AWS Encryption SDK messages as streams.
//
// It stands between an application, or the transformer of the root package, and a provider:
//
//	encrypt   plaintext → Encrypter → one data key of the provider → header → frames
//	decrypt   message → Decrypter → header, bounded → provider, trusted keys only → commitment, header tag → frames
//
// Each direction comes as a pull stream and as a push stream; both make one call of the key service for a message and
// hold one frame in memory, or a few on several cores (Encrypter.Parallelism). What the streams give opens with every official
// AWS Encryption SDK, and the other way round.
package message

import (
	"bufio"
	"context"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	"piko.sh/pikokms/frame"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/memory"
	"piko.sh/pikokms/pikov2"
	"piko.sh/pikokms/provider"
)

// ErrPikoV2 means that the input is no message but begins as a stream that Piko wrote before pikokms, and Decrypter.AllowPikoV2
// is not set.
var ErrPikoV2 = errors.New("not a message but a stream that Piko wrote before pikokms")

// EncryptedSize returns the exact size in bytes of a message with this header and n bytes of plaintext, as it is written
// here. The error holds frame.ErrTooLong, or header.ErrUnsupported for a signed message, since signatures vary in size, and
// for an unframed one, which is not written.
func EncryptedSize(h *header.Header, n int64) (int64, error) {
	if h.Suite.Signed() || h.ContentType != header.Framed {
		return 0, fmt.Errorf("%w: signed and unframed messages have no size that can be told in advance", header.ErrUnsupported)
	}
	body, err := frame.EncryptedSize(n, int(h.FrameLength))
	if err != nil {
		return 0, err
	}
	if body > math.MaxInt64-int64(h.Size()) {
		return 0, fmt.Errorf("%w: %d bytes", frame.ErrTooLong, n)
	}
	return int64(h.Size()) + body, nil
}

// PlaintextSize returns the exact number of plaintext bytes in a message of n bytes with this header, whoever wrote it.
// Until the message is decrypted the result is only as true as n and the header are.
// The error holds frame.ErrMalformed when no message has that size, or header.ErrUnsupported for a signed message, since
// signatures vary in size.
func PlaintextSize(h *header.Header, n int64) (int64, error) {
	if h.Suite.Signed() {
		return 0, fmt.Errorf("%w: a signed message's size does not tell its plaintext's", header.ErrUnsupported)
	}
	body := n - int64(h.Size())
	if h.ContentType == header.Framed {
		return frame.PlaintextSize(body, int(h.FrameLength))
	}
	if body < frame.UnframedOverhead {
		return 0, fmt.Errorf("%w: %d bytes are less than an unframed body", frame.ErrMalformed, body)
	}
	return body - frame.UnframedOverhead, nil
}

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

// A Decrypter decrypts messages. It must not be changed once in use, and is then safe for concurrent use.
type Decrypter struct {
	Keyrings []provider.Keyring // tried in order; each asks only about keys that it trusts
	Limits   header.Limits      // MaxFrameLength also bounds unframed messages, which are held in memory

	CommitmentPolicy CommitmentPolicy

	// AllowPikoV2 lets NewReader read the streams that Piko wrote before pikokms, too, under keyrings that implement
	// provider.PikoV2Keyring. A stream that was cut between two of its chunks then reads as a shorter one, without an error:
	// package pikov2 says what else its format lacks. Set it only while such streams remain.
	AllowPikoV2 bool

	Parallelism int // goroutines that open a stream's frames, as Encrypter's
}

// NewReader reads a message's header from src, has its data key unwrapped, verifies the header, and returns the plaintext
// as a pull stream. Each pair of stated must be the message's: equal to the stored pair or, when the message does not store
// it, one that was required when it was encrypted. The key service is called here and not again; ctx also ends the stream.
// The plaintext is whole when Read returns io.EOF, and only then: a signature comes after it.
//
// The error holds provider.ErrInvalidCiphertext (the input is no message, cut short, or over a limit), ErrCommitmentPolicy,
// provider.ErrContextMismatch, provider.ErrUntrustedKey, provider.ErrDecryptionFailed (it was changed, or the key does not
// fit), or is the keyring's or src's own. Read's errors are the same.
func (d *Decrypter) NewReader(ctx context.Context, src io.Reader, stated map[string]string) (*DecryptReader, error) {
	r := &DecryptReader{source: sourceReader{contextReader: contextReader{ctx, src, memory.Of(src), nil}}}
	if pikov2.Sniff(r.source.peek(pikov2.SniffSize)) {
		return d.newPikoV2Reader(ctx, &r.source, stated)
	}
	h, err := header.Read(&r.source, d.Limits)
	if err == io.EOF {
		return nil, fmt.Errorf("%w: the input is empty", provider.ErrInvalidCiphertext)
	}
	if err != nil {
		return nil, classify(err)
	}
	c, all, err := d.start(ctx, h, stated)
	if err != nil {
		return nil, err
	}
	r.header, r.context, r.body = h, all, frame.NewOpenReader(&r.source, c)
	return r, nil
}

func (d *Decrypter) newPikoV2Reader(ctx context.Context, src io.Reader, stated map[string]string) (*DecryptReader, error) {
	if !d.AllowPikoV2 {
		return nil, fmt.Errorf("%w: %w: AllowPikoV2 lets it be read", provider.ErrInvalidCiphertext, ErrPikoV2)
	}
	if len(stated) > 0 {
		return nil, fmt.Errorf("%w: a stream that Piko wrote before pikokms has none", provider.ErrContextMismatch)
	}
	body, err := pikov2.NewReader(ctx, src, d.Keyrings)
	if err != nil {
		return nil, err
	}
	return &DecryptReader{body: body}, nil
}

// NewWriter returns a push stream: a message written to it goes to dst as plaintext, each frame once it is verified. The
// key service is called during the Write that completes the header. The plaintext is whole when Close returns nil, and
// only then. Streams that Piko wrote before pikokms are for NewReader. The rest is as in NewReader.
func (d *Decrypter) NewWriter(ctx context.Context, dst io.Writer, stated map[string]string) *DecryptWriter {
	return &DecryptWriter{decrypter: d, ctx: ctx, dst: &contextWriter{ctx, dst, nil}, stated: maps.Clone(stated), scanner: header.Scanner{Limits: d.Limits}}
}

// start checks a header that was read, and gives the cipher of its frames and the whole encryption context.
func (d *Decrypter) start(ctx context.Context, h *header.Header, stated map[string]string) (frame.Config, map[string]string, error) {
	v, err := d.verify(ctx, h, stated)
	if err != nil {
		return frame.Config{}, nil, err
	}
	defer v.dataKey.Close()
	c := frame.Config{AEAD: v.aead, MessageID: h.MessageID, Length: int(h.FrameLength), Parallelism: d.Parallelism}
	if h.ContentType == header.Unframed {
		c.Unframed = true
		if c.Length = d.Limits.MaxFrameLength; c.Length <= 0 {
			c.Length = header.MaxFrameLength
		}
	}
	if v.verifier != nil {
		_, _ = v.verifier.Write(h.Bytes()) // a hash.Hash never fails
		c.Digest, c.Footer = v.verifier, v.verifier.Verify
	}
	return c, v.all, nil
}

// verified is what a header that was checked gives.
type verified struct {
	dataKey       *provider.SecureBytes // to be closed
	aead          cipher.AEAD
	all, unstored map[string]string // the encryption context, and the required pairs in it
	verifier      *header.Verifier  // nil for a suite without a signature
}

// verify has the data key of a header unwrapped and checks the header's commitment and tag.
func (d *Decrypter) verify(ctx context.Context, h *header.Header, stated map[string]string) (verified, error) {
	if err := d.CommitmentPolicy.allowDecrypt(h.Suite); err != nil {
		return verified{}, err
	}
	v := verified{all: h.EncryptionContext}
	for name, value := range stated {
		got, stored := h.EncryptionContext[name]
		switch {
		case !stored && v.unstored == nil:
			v.unstored = map[string]string{name: value}
		case !stored:
			v.unstored[name] = value
		case got != value:
			return verified{}, fmt.Errorf("%w: the message has another value for %q than the one stated", provider.ErrContextMismatch, name)
		}
	}
	if len(v.unstored) > 0 {
		v.all = make(map[string]string, len(h.EncryptionContext)+len(v.unstored))
		maps.Copy(v.all, h.EncryptionContext)
		maps.Copy(v.all, v.unstored)
	}
	if err := header.CheckContext(v.unstored); err != nil {
		return verified{}, fmt.Errorf("%w: %w", provider.ErrContextMismatch, err)
	}
	if _, signed := h.EncryptionContext[header.PublicKeyName]; signed && !h.Suite.Signed() {
		// Specification: framework/default-cmm.md, "Decrypt Materials".
		return verified{}, classify(fmt.Errorf("%w: suite %v has no signature, but the encryption context has a verification key", header.ErrMalformed, h.Suite))
	}
	var err error
	if h.Suite.Signed() {
		if v.verifier, err = header.NewVerifier(h.Suite, h.EncryptionContext); err != nil {
			return verified{}, classify(err)
		}
	}
	// A required pair that is not the message's looks like a wrong key or a changed header.
	hint := func(err error) error {
		if len(v.unstored) == 0 || !errors.Is(err, provider.ErrDecryptionFailed) {
			return err
		}
		names := slices.Sorted(maps.Keys(v.unstored))
		return fmt.Errorf("%w: the message does not store %q, so what was stated for it was taken as a required pair: %w", provider.ErrContextMismatch, names, err)
	}
	if v.dataKey, err = d.unwrap(ctx, h, v.all); err != nil {
		return verified{}, hint(classify(err))
	}
	err = v.dataKey.WithAccess(func(key []byte) error {
		aead, commitment, err := h.Suite.DeriveKeys(key, h.MessageID)
		if err != nil {
			return err
		}
		if subtle.ConstantTimeCompare(commitment, h.Commitment) != 1 {
			return fmt.Errorf("%w: the key commitment does not fit the data key", header.ErrAuthentication)
		}
		v.aead = aead
		return h.Verify(aead, v.unstored)
	})
	if err != nil {
		_ = v.dataKey.Close() // what failed first is what matters
		return verified{}, hint(classify(err))
	}
	return v, nil
}

// unwrap returns the first data key that one of the keyrings unwraps.
func (d *Decrypter) unwrap(ctx context.Context, h *header.Header, encryptionContext map[string]string) (*provider.SecureBytes, error) {
	trusted := make([]bool, len(h.EncryptedDataKeys))
	var failures unwrapError
	for _, keyring := range d.Keyrings {
		for i, wrapped := range h.EncryptedDataKeys {
			key, err := keyring.UnwrapDataKey(ctx, &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Context: encryptionContext, Size: h.Suite.DataKeySize()})
			if err == nil {
				return key, nil
			}
			if ctx.Err() != nil {
				return nil, err
			}
			if !errors.Is(err, provider.ErrUntrustedKey) {
				trusted[i] = true
				failures = append(failures, err)
			}
		}
	}
	if len(failures) == 0 {
		return nil, fmt.Errorf("%w: it names %s; configure a provider for one of them", provider.ErrUntrustedKey, describeKeys(h.EncryptedDataKeys))
	}
	for i, wrapped := range h.EncryptedDataKeys {
		if !trusted[i] {
			failures = append(failures, fmt.Errorf("no provider is configured for %s", describeKeys([]header.EncryptedDataKey{wrapped})))
		}
	}
	return nil, failures
}

// unwrapError says why each data key of a message was not unwrapped.
type unwrapError []error

func (e unwrapError) Error() string {
	reasons := make([]string, len(e))
	for i, err := range e {
		reasons[i] = err.Error()
	}
	return strings.Join(reasons, "; ")
}

func (e unwrapError) Unwrap() []error { return e }

// describeKeys names the wrapping keys that a header states, for an error: the text is the message's, so it is quoted.
func describeKeys(keys []header.EncryptedDataKey) string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = fmt.Sprintf("%q of provider %q", KeyName(k), k.ProviderID)
	}
	return strings.Join(names, ", ")
}

// KeyName returns what a wrapped data key says of its wrapping key: a key ARN, or a raw key's name.
func KeyName(k header.EncryptedDataKey) string {
	// A raw AES key's information is its name, then tag length, IV length and IV, of 4, 4 and 12 bytes
	// (specification: framework/raw-aes-keyring.md, "Key Provider Information").
	const rawAES = "\x00\x00\x00\x80\x00\x00\x00\x0c"
	info := string(k.ProviderInfo)
	if n := len(info) - 20; k.ProviderID != "aws-kms" && n >= 0 && info[n:n+8] == rawAES {
		return info[:n]
	}
	return info
}

// DecryptReader reads as a message's plaintext. It is for one goroutine.
type DecryptReader struct {
	source  sourceReader
	header  *header.Header
	context map[string]string
	body    interface { // a *frame.OpenReader or *pikov2.Reader
		io.Reader
		io.WriterTo
	}
	closed bool
}

// Header returns the message's verified header, or nil for a stream that Piko wrote before pikokms.
func (r *DecryptReader) Header() *header.Header { return r.header }

// EncryptionContext returns the message's verified encryption context, with the required pairs that it does not store. The
// caller must not change it.
func (r *DecryptReader) EncryptionContext() map[string]string { return r.context }

// Read implements io.Reader.
func (r *DecryptReader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, frame.ErrClosed
	}
	n, err := r.body.Read(p)
	return n, classify(err)
}

// WriteTo implements io.WriterTo, without a copy.
func (r *DecryptReader) WriteTo(w io.Writer) (int64, error) {
	if r.closed {
		return 0, frame.ErrClosed
	}
	n, err := r.body.WriteTo(w)
	return n, classify(err)
}

// Close implements io.Closer. It does not close the source, and a reader that is dropped without it leaves nothing behind.
func (r *DecryptReader) Close() error {
	r.closed = true
	return nil
}

// DecryptWriter decrypts the message that is written to it. It is for one goroutine.
type DecryptWriter struct {
	decrypter *Decrypter
	ctx       context.Context
	dst       io.Writer
	stated    map[string]string

	scanner header.Scanner
	start   []byte         // the header so far
	header  *header.Header // once verified
	body    *frame.OpenWriter
	err     error
}

// Header returns the message's verified header, or nil while it is not complete.
func (w *DecryptWriter) Header() *header.Header { return w.header }

// Write implements io.Writer.
func (w *DecryptWriter) Write(p []byte) (n int, err error) {
	if w.err != nil {
		return 0, w.err
	}
	for w.body == nil && n < len(p) {
		need, done, err := w.scanner.Scan(w.start)
		if err == nil && !done {
			m := min(need-len(w.start), len(p)-n)
			w.start = append(w.start, p[n:n+m]...)
			n += m
			_, done, err = w.scanner.Scan(w.start)
		}
		if err == nil && done {
			err = w.open()
		}
		if err != nil {
			w.err = classify(err)
			return n, w.err
		}
	}
	if n == len(p) {
		return n, nil
	}
	m, err := w.body.Write(p[n:])
	w.err = classify(err)
	return n + m, w.err
}

// ReadFrom implements io.ReaderFrom: it reads the frames to where they are opened, without a copy.
func (w *DecryptWriter) ReadFrom(src io.Reader) (total int64, err error) {
	source := bufio.NewReaderSize(src, header.SniffSize) // which gives up on a source that gives nothing
	for w.err == nil && w.body == nil {
		need, _, err := w.scanner.Scan(w.start)
		if err != nil {
			w.err = classify(err)
			break
		}
		piece := make([]byte, max(1, need-len(w.start)))
		n, readErr := io.ReadAtLeast(source, piece, 1)
		total += int64(n)
		if _, err := w.Write(piece[:n]); err != nil {
			return total, err
		}
		if readErr == io.EOF {
			return total, nil
		}
		if readErr != nil {
			return total, readErr
		}
	}
	if w.err != nil {
		return total, w.err
	}
	n, err := w.body.ReadFrom(source)
	w.err = classify(err)
	return total + n, w.err
}

func (w *DecryptWriter) open() error {
	h, _, err := header.Parse(w.start, w.decrypter.Limits)
	if err != nil {
		return err
	}
	c, _, err := w.decrypter.start(w.ctx, h, w.stated)
	if err != nil {
		return err
	}
	w.header, w.start = h, nil
	w.body = frame.NewOpenWriter(w.dst, c)
	return nil
}

// Close releases the last plaintext and reports whether the message was whole. It does not close the destination.
func (w *DecryptWriter) Close() error {
	if w.err != nil {
		return w.err
	}
	if w.body == nil {
		_, _, err := header.Parse(w.start, w.decrypter.Limits)
		if err == io.EOF {
			err = fmt.Errorf("%w: the input is empty", provider.ErrInvalidCiphertext)
		}
		w.err = classify(err)
		return w.err
	}
	w.err = classify(w.body.Close())
	return w.err
}

// classify puts the port's sentinel before an error of the format. Errors of a source or destination stay as they are.
func classify(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	for _, e := range [...]error{header.ErrAuthentication, frame.ErrAuthentication, frame.ErrSequence, frame.ErrTrailingData} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", provider.ErrDecryptionFailed, err)
		}
	}
	for _, e := range [...]error{header.ErrNotMessage, header.ErrMalformed, header.ErrUnsupported, header.ErrLimit, frame.ErrTruncated, frame.ErrMalformed, frame.ErrTooLarge} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", provider.ErrInvalidCiphertext, err)
		}
	}
	return err
}

// contextReader ends a stream with its context, at the next read of the source.
type contextReader struct {
	ctx    context.Context
	r      io.Reader
	memory memory.Source   // r, if its bytes are in memory
	count  func(bytes int) // of the data key; may be nil
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.r.Read(p)
	if n < 0 || n > len(p) {
		return 0, fmt.Errorf("message: the source says it read %d bytes into %d", n, len(p))
	}
	if r.count != nil && n > 0 {
		r.count(n)
	}
	return n, err
}

// Ahead implements memory.Source. What it does not show is for Read.
func (r *contextReader) Ahead() []byte {
	if r.memory == nil || r.ctx.Err() != nil {
		return nil
	}
	return r.memory.Ahead()
}

// Skip implements memory.Source.
func (r *contextReader) Skip(n int) {
	r.memory.Skip(n)
	if r.count != nil {
		r.count(n)
	}
}

// sourceReader is a contextReader that reads ahead a little, so that a header, which is read in small pieces, takes few reads of
// the source, and so that its first bytes can be looked at.
type sourceReader struct {
	contextReader
	buf   [512]byte
	ahead []byte // the bytes of buf that are still to be read
	err   error  // that came with them
}

// peek returns the next n bytes, or fewer where the source has no more at hand.
func (r *sourceReader) peek(n int) []byte {
	if ahead := r.Ahead(); len(ahead) > 0 {
		return ahead[:min(n, len(ahead))]
	}
	for empty := 0; len(r.ahead) < n && r.err == nil && empty < 100; empty++ {
		var m int
		m, r.err = r.contextReader.Read(r.buf[len(r.ahead):])
		r.ahead = r.buf[:len(r.ahead)+m]
	}
	return r.ahead[:min(n, len(r.ahead))]
}

func (r *sourceReader) Read(p []byte) (n int, err error) {
	if len(r.ahead) == 0 && r.err == nil {
		if len(p) >= len(r.buf) || r.memory != nil {
			return r.contextReader.Read(p)
		}
		n, r.err = r.contextReader.Read(r.buf[:])
		r.ahead = r.buf[:n]
	}
	if len(r.ahead) == 0 {
		err, r.err = r.err, nil
		return 0, err
	}
	n = copy(p, r.ahead)
	r.ahead = r.ahead[n:]
	return n, nil
}

// remaining returns how many bytes the source still gives, if it tells.
func (r *contextReader) remaining() (n int64, known bool) {
	switch s := r.r.(type) {
	case interface{ Len() int }:
		return int64(s.Len()), true
	case *os.File:
		if info, err := s.Stat(); err != nil || !info.Mode().IsRegular() { // devices can be sought, but have no end
			return 0, false
		}
	}
	s, ok := r.r.(io.Seeker)
	if !ok {
		return 0, false
	}
	at, err := s.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, false
	}
	end, err := s.Seek(0, io.SeekEnd)
	if _, back := s.Seek(at, io.SeekStart); back != nil {
		r.r = failed{back} // what it gives now begins who knows where
		return 0, false
	}
	return max(0, end-at), err == nil
}

// failed is a source that can't be read any more.
type failed struct{ err error }

func (f failed) Read([]byte) (int, error) { return 0, f.err }

// contextWriter ends a stream with its context, at the next write to the destination.
type contextWriter struct {
	ctx   context.Context
	w     io.Writer
	count func(bytes int)
}

func (w *contextWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.w.Write(p)
	if w.count != nil {
		w.count(n)
	}
	return n, err
}
