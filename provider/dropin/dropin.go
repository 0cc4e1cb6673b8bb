// Package dropin is the shared part of pikokms' drop-in replacements of Piko's crypto providers:
// streams, what key services' drop-ins do with a request, and Piko's names of errors. It uses none
// of Piko's types. Each drop-in is a module of its own under an import path of Piko's.
//
// A stream has the pair provider.PairUse in its encryption context, which says that it is a stream.
// A string that a key service itself encrypts has no such pair, and callers cannot state it. So a
// string that was encrypted for an attacker cannot serve as the wrapped data key of a stream, and a
// stream's data key cannot be decrypted as a string.
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

// The pair of the encryption context that every stream has.
const (
	PairUse   = provider.PairUse
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

// Names lists errors of package provider, each with Piko's name of the same error.
type Names []struct{ Ours, Pikos error }

// Translate returns an error with the same text that holds Piko's error, too.
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

// EncryptStream returns a writer that encrypts to output as one AWS Encryption SDK message. The
// message is complete when Close returns nil. The errors are the provider's and CheckContext's,
// translated by n.
func EncryptStream(ctx context.Context, p provider.Keyring, output io.Writer, request *provider.EncryptRequest, n Names) (io.WriteCloser, error) {
	if err := CheckContext(request.Context); err != nil {
		return nil, n.Translate(err)
	}
	pairs := map[string]string{PairUse: UseStream}
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

// DecryptStream returns a reader of what EncryptStream wrote. If allowPikoV2 is set, it also reads
// the streams that Piko's own providers wrote; message.Decrypter.AllowPikoV2 says what those lack.
// For a message that is not a stream, the error holds provider.ErrContextMismatch. The other errors
// are those of message.Decrypter.NewReader. All are translated by n.
func DecryptStream(ctx context.Context, p provider.Keyring, input io.Reader, allowPikoV2 bool, n Names) (io.ReadCloser, error) {
	d := message.Decrypter{Keyrings: []provider.Keyring{p}, AllowPikoV2: allowPikoV2, Accept: acceptStream}
	r, err := d.NewReader(ctx, input, nil)
	if err != nil {
		return nil, n.Translate(err)
	}
	return &stream{r, n}, nil
}

func acceptStream(h *header.Header) error {
	if h.EncryptionContext[PairUse] != UseStream {
		return fmt.Errorf("%w: the message is not a stream of Piko's crypto service, which has the pair %s=%s", provider.ErrContextMismatch, PairUse, UseStream)
	}
	return nil
}

// stream translates the errors of its reader.
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
