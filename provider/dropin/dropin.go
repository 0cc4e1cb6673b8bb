// Package dropin is what pikokms' drop-in replacements of Piko's crypto providers share: their
// streams, and the names that Piko has for errors. It knows none of Piko's types; each drop-in has
// its own module, under an import path of Piko's.
//
// A stream carries the pair provider.UseKey in its encryption context, which says what it is. A
// string that a key service encrypts itself carries none, as Piko states none, and callers cannot
// state the pair. So a string that was encrypted for an attacker cannot serve as the wrapped data
// key of a stream, and a stream's data key cannot be decrypted as a string.
package dropin

import (
	"context"
	"errors"
	"fmt"
	"io"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// The pair of a stream's encryption context that says what it is.
const (
	UseKey    = provider.UseKey
	UseStream = provider.UseStream
)

// CheckContext refuses an encryption context with a reserved key. The error holds
// provider.ErrContextMismatch.
func CheckContext(encryptionContext map[string]string) error {
	if err := provider.CheckStated(encryptionContext); err != nil {
		return fmt.Errorf("%w: %w", provider.ErrContextMismatch, err)
	}
	return nil
}

// Names are the errors of package provider that Piko knows under names of its own.
type Names []struct{ Ours, Pikos error }

// Translate returns an error with the same text that errors.Is knows by Piko's names, too.
func (n Names) Translate(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	t := &translated{err: err}
	for _, name := range n {
		if errors.Is(err, name.Ours) {
			t.pikos = append(t.pikos, name.Pikos)
		}
	}
	return t
}

type translated struct {
	err   error
	pikos []error
}

func (t *translated) Error() string   { return t.err.Error() }
func (t *translated) Unwrap() []error { return append([]error{t.err}, t.pikos...) }

// EncryptStream returns a writer whose plaintext goes to output as one AWS Encryption SDK message,
// whole when Close returns nil. The errors are the provider's and CheckContext's, under n's names.
func EncryptStream(ctx context.Context, p provider.Keyring, output io.Writer, request *provider.EncryptRequest, n Names) (io.WriteCloser, error) {
	if err := CheckContext(request.Context); err != nil {
		return nil, n.Translate(err)
	}
	pairs := map[string]string{UseKey: UseStream}
	for key, value := range request.Context {
		pairs[key] = value
	}
	e := message.Encrypter{Keyring: named{p, request.KeyID}}
	w, err := e.NewWriter(ctx, output, pairs)
	if err != nil {
		return nil, n.Translate(err)
	}
	return w, nil
}

// named is a keyring that makes data keys under the key that a request names.
type named struct {
	provider.Keyring
	keyID string
}

func (n named) GenerateDataKey(ctx context.Context, request *provider.GenerateDataKeyRequest) (*provider.DataKey, error) {
	of := *request
	of.KeyID = n.keyID
	return n.Keyring.GenerateDataKey(ctx, &of)
}

// DecryptStream returns a reader of what EncryptStream wrote, and where allowPikoV2 is set, of the
// streams that Piko's own providers wrote; message.Decrypter.AllowPikoV2 says what those lack. A
// message that is no stream holds provider.ErrContextMismatch; the other errors are those of
// message.Decrypter.NewReader. All are under n's names.
func DecryptStream(ctx context.Context, p provider.Keyring, input io.Reader, allowPikoV2 bool, n Names) (io.ReadCloser, error) {
	d := message.Decrypter{Keyrings: []provider.Keyring{p}, AllowPikoV2: allowPikoV2, Accept: acceptStream}
	r, err := d.NewReader(ctx, input, nil)
	if err != nil {
		return nil, n.Translate(err)
	}
	return &stream{r, n}, nil
}

func acceptStream(h *header.Header) error {
	if h.EncryptionContext[UseKey] != UseStream {
		return fmt.Errorf("%w: the message is not a stream of Piko's crypto service, which has the pair %s=%s", provider.ErrContextMismatch, UseKey, UseStream)
	}
	return nil
}

// stream gives its errors Piko's names.
type stream struct {
	*message.DecryptReader
	names Names
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.DecryptReader.Read(p)
	return n, s.names.Translate(err)
}

// WriteTo implements io.WriterTo.
func (s *stream) WriteTo(w io.Writer) (int64, error) {
	n, err := s.DecryptReader.WriteTo(w)
	return n, s.names.Translate(err)
}
