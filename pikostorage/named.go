package pikostorage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// pikosCrypto is the name under which Piko registers its own encryption transformer.
const pikosCrypto = "crypto-service"

// undoPikosEncryption undoes the encryption of Piko's transformer "crypto-service" on an upload's
// content, and removes that name from the list of transformers. The object's own encryption takes
// its place, so ranges, sizes, hashes and URLs are the original's. It does so if that transformer
// was the last one, and if a crypto provider of pikokms wrote the content under a key of this
// storage. Otherwise it returns the content and the list as they are.
func (e *encrypted) undoPikosEncryption(ctx context.Context, content io.Reader, transformers string) (io.Reader, string, error) {
	var names []string
	if transformers == noTransformers || json.Unmarshal([]byte(transformers), &names) != nil {
		return content, transformers, nil
	}
	at := slices.Index(names, pikosCrypto)
	if at < 0 {
		return content, transformers, nil
	}
	recorded := &recorder{Reader: content}
	d := message.Decrypter{Keyrings: []provider.Unwrapper{e.host.CryptoService()}, Accept: acceptStream}
	plain, err := d.NewReader(ctx, recorded, nil)
	for _, other := range []error{provider.ErrInvalidCiphertext, provider.ErrContextMismatch, provider.ErrUntrustedKey} {
		if errors.Is(err, other) {
			return io.MultiReader(&recorded.start, content), transformers, nil
		}
	}
	if err != nil {
		return nil, "", err
	}
	recorded.stop()
	left, err := json.Marshal(slices.Delete(names, at, at+1))
	return plain, string(left), err
}

// acceptStream accepts what Piko's crypto service encrypted as a stream.
func acceptStream(h *header.Header) error {
	if h.EncryptionContext[provider.PairUse] != provider.UseStream {
		return fmt.Errorf("%w: no stream of Piko's crypto service", provider.ErrContextMismatch)
	}
	return nil
}

// namesCrypto reports whether a request names Piko's transformer "crypto-service", and no other.
func namesCrypto(c *storage.TransformConfig) bool {
	return c != nil && slices.Equal(c.EnabledTransformers, []string{pikosCrypto})
}

// encryptForPiko encrypts content for a request that names Piko's transformer "crypto-service". If
// an object names no transformers, Piko reverses those of the request, so the content must be
// encrypted.
func (e *encrypted) encryptForPiko(ctx context.Context, content io.ReadCloser) (io.ReadCloser, error) {
	m := message.Encrypter{Keyring: e.host.CryptoService()}
	r, err := m.NewReader(ctx, content, map[string]string{provider.PairUse: provider.UseStream})
	if err != nil {
		return nil, errors.Join(err, content.Close())
	}
	return newObject(r, content), nil
}
