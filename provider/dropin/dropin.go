// Package dropin is the adapter between Piko's crypto service and the key services of pikokms. It
// has what Piko asks of a provider beyond wrapping and unwrapping data keys: strings, key IDs and
// key specs in requests, descriptions of keys, streams, and Piko's names of errors. It uses none of
// Piko's types. Each drop-in, a module of its own under an import path of Piko's, translates those.
//
// A stream has the pair provider.PairUse in its encryption context, which says that it is a stream.
// A string that a key service itself encrypts has no such pair, and callers cannot state it. So a
// string that was encrypted for an attacker cannot serve as the wrapped data key of a stream, and a
// stream's data key cannot be decrypted as a string.
//
// The data key of a batch is different. Piko keeps its wrapped text beside the batch and passes it
// to Decrypt, in the same form as a string. So Decrypt hands out the data key of a batch to whoever
// can have a text of their choice decrypted as a string, and a string of a data key's length serves
// as the data key of a batch. Strings that must be kept apart from others need another key, or
// Service.EncryptBatch of package service, whose data keys are bound to their use.
package dropin

import (
	"context"
	"errors"
	"fmt"
	"io"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/service"
)

// Adapter has the methods of Piko's providers, for any key service. All errors are translated by
// Names.
type Adapter struct {
	// Provider is the key. Unless it is a provider.KeySelector, it is the only one, and the key IDs
	// of requests are ignored.
	Provider provider.Provider

	Service service.Service // on Provider
	Names   Names

	// OwnKeyID is the placeholder that Piko's crypto service states as the key ID until its keys
	// are rotated. It means the provider's own key.
	OwnKeyID string

	// AllowPikoV2 lets DecryptStream also read the streams that Piko's own providers wrote, and
	// DecryptPikoV2 strings. The option AllowPikoV2 of package pikokms says what those lack.
	AllowPikoV2 bool
}

// under returns the service of the key that a request names.
func (a *Adapter) under(keyID string) service.Service {
	selector, ok := a.Provider.(provider.KeySelector)
	if keyID == "" || keyID == a.OwnKeyID || !ok {
		return a.Service
	}
	return a.Service.With(selector.Under(keyID))
}

// Encrypt encrypts a string. It returns the ciphertext in base64, and the ID of the key that it is
// under. If the encryption context has a reserved key, the error holds provider.ErrContextMismatch.
func (a *Adapter) Encrypt(ctx context.Context, plaintext, keyID string, encryptionContext map[string]string) (ciphertext, under string, err error) {
	if err := checkContext(encryptionContext); err != nil {
		return "", "", a.Names.Translate(err)
	}
	if plaintext == "" {
		return "", "", a.Names.Translate(envelope.Fail(a.Service, "Encrypt", provider.ErrEmptyPlaintext))
	}
	sealed, err := envelope.Seal(ctx, a.under(keyID), plaintext, encryptionContext)
	if err != nil {
		return "", "", a.Names.Translate(err)
	}
	return sealed.Ciphertext, sealed.KeyID, nil
}

// Decrypt decrypts the ciphertext of a string, or the data key of GenerateDataKey. If the
// encryption context has a reserved key, the error holds provider.ErrContextMismatch.
func (a *Adapter) Decrypt(ctx context.Context, ciphertext, keyID string, encryptionContext map[string]string) (string, error) {
	if err := checkContext(encryptionContext); err != nil {
		return "", a.Names.Translate(err)
	}
	if ciphertext == "" {
		return "", a.Names.Translate(envelope.Fail(a.Service, "Decrypt", provider.ErrEmptyCiphertext))
	}
	under := a.under(keyID)
	plaintext, err := envelope.Open(ctx, under, ciphertext, encryptionContext)
	if err != nil {
		return "", a.Names.Translate(envelope.Fail(under, "Decrypt", err))
	}
	return plaintext, nil
}

// DecryptPikoV2 decrypts the ciphertext of a string that Piko encrypted under a local key before it
// used pikokms. The error holds provider.ErrInvalidCiphertext without AllowPikoV2.
func (a *Adapter) DecryptPikoV2(ctx context.Context, ciphertext string, encryptionContext map[string]string) (string, error) {
	text, err := envelope.New(a.Provider.KeyID(), a.Provider.Type(), ciphertext)
	if err != nil {
		return "", a.Names.Translate(err)
	}
	d := envelope.Decrypter{Providers: []provider.EncryptionProvider{a.Provider}, AllowPikoV2: a.AllowPikoV2}
	plaintext, err := d.Decrypt(ctx, text, encryptionContext)
	return plaintext, a.Names.Translate(err)
}

// GenerateDataKey makes a data key for a batch of Piko's, and calls take with it. The plain key is
// zeroed after that call. The key spec is empty, "AES_256" or "AES_128". For another one, the error
// holds provider.ErrInvalidKey.
func (a *Adapter) GenerateDataKey(ctx context.Context, keyID, keySpec string, take func(made *provider.DataKey, plain []byte) error) error {
	made, err := generate(ctx, a.under(keyID), keySpec)
	if err != nil {
		return a.Names.Translate(err)
	}
	err = made.PlaintextKey.WithAccess(func(plain []byte) error { return take(made, plain) })
	if err := errors.Join(err, made.Close()); err != nil {
		return a.Names.Translate(fmt.Errorf("%w: secure memory: %w", provider.ErrEncryptionFailed, err))
	}
	return nil
}

func generate(ctx context.Context, under service.Service, keySpec string) (*provider.DataKey, error) {
	switch keySpec {
	case "", "AES_256":
		return under.GenerateDataKey(ctx, nil)
	case "AES_128":
	default:
		return nil, envelope.Fail(under, "GenerateDataKey", fmt.Errorf("%w: key spec %q is neither AES_256 nor AES_128", provider.ErrInvalidKey, keySpec))
	}
	key, err := provider.RandomKey(16)
	if err != nil {
		return nil, envelope.Fail(under, "GenerateDataKey", err)
	}
	wrapped, err := under.WrapDataKey(ctx, key, nil)
	if err != nil {
		return nil, errors.Join(envelope.Fail(under, "GenerateDataKey", err), key.Close())
	}
	return &provider.DataKey{PlaintextKey: key, EncryptedKey: wrapped, KeyID: message.KeyName(wrapped)}, nil
}

// GetKeyInfo describes a key. The status is Piko's: "active", "disabled" or "destroyed". A key that
// waits for its deletion counts as destroyed.
func (a *Adapter) GetKeyInfo(ctx context.Context, keyID string) (info *provider.KeyInfo, status string, err error) {
	if keyID == a.OwnKeyID {
		keyID = ""
	}
	if info, err = a.Service.GetKeyInfo(ctx, keyID); err != nil {
		return nil, "", a.Names.Translate(err)
	}
	switch {
	case info.Err == nil:
		return info, "active", nil
	case errors.Is(info.Err, provider.ErrKeyPendingDeletion), errors.Is(info.Err, provider.ErrKeyNotFound):
		return info, "destroyed", nil
	}
	return info, "disabled", nil
}

// EncryptStream returns a writer that encrypts to output as one AWS Encryption SDK message. The
// message is complete when Close returns nil. If the encryption context has a reserved key, the
// error holds provider.ErrContextMismatch.
func (a *Adapter) EncryptStream(ctx context.Context, output io.Writer, keyID string, encryptionContext map[string]string) (io.WriteCloser, error) {
	if err := checkContext(encryptionContext); err != nil {
		return nil, a.Names.Translate(err)
	}
	pairs := map[string]string{provider.PairUse: provider.UseStream}
	for key, value := range encryptionContext {
		pairs[key] = value
	}
	e := message.Encrypter{Keyring: a.under(keyID)}
	w, err := e.NewWriter(ctx, output, pairs)
	if err != nil {
		return nil, a.Names.Translate(err)
	}
	return w, nil
}

// DecryptStream returns a reader of what EncryptStream wrote. For a message that is not a stream,
// the error holds provider.ErrContextMismatch. The other errors are those of
// message.Decrypter.NewReader.
func (a *Adapter) DecryptStream(ctx context.Context, input io.Reader) (io.ReadCloser, error) {
	d := message.Decrypter{Keyrings: []provider.Unwrapper{a.Service}, AllowPikoV2: a.AllowPikoV2, Accept: acceptStream}
	r, err := d.NewReader(ctx, input, nil)
	if err != nil {
		return nil, a.Names.Translate(err)
	}
	return &stream{r, a.Names}, nil
}

func acceptStream(h *header.Header) error {
	if h.EncryptionContext[provider.PairUse] != provider.UseStream {
		return fmt.Errorf("%w: the message is not a stream of Piko's crypto service, which has the pair %s=%s", provider.ErrContextMismatch, provider.PairUse, provider.UseStream)
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

// WriteTo writes the rest of the plaintext to w.
func (s *stream) WriteTo(w io.Writer) (int64, error) {
	n, err := s.DecryptReader.WriteTo(w)
	return n, s.names.Translate(err)
}
