package pikokms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/pikov2"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/s3ec"
)

// SetDefaultCryptoProvider makes another registered provider the default. From then on, objects and
// strings are written under its key. Those under all registered keys are read as before. Rewrap
// moves old objects, and ReEncrypt old strings. None of this is needed when AWS KMS rotates a key
// itself. The error holds ErrConfig.
func (h *Host) SetDefaultCryptoProvider(name string) error {
	s := h.services[name]
	if s == nil {
		return fmt.Errorf("%w: crypto provider %q is not registered; registered are %s", ErrConfig, name, strings.Join(slices.Sorted(maps.Keys(h.services)), ", "))
	}
	h.setCurrent(s)
	return nil
}

// Rewrap moves an object to the default provider's key, in its newest version. It does so even if
// the object IsCurrent, which then has a new data key. It replaces the object in one step once the
// whole of it is verified. On an error the old one stays. It refuses anything that is not a stored
// object of a host, whatever New's options allow: Migrate moves that.
//
// A cache of branch keys or of data keys keeps the version that it has until its limits are
// reached. Rewrap after that, or on a host without such a cache.
//
// On a ConditionalStorage, an object that was replaced or deleted meanwhile is left as it is, and
// the error holds ErrChanged. On another storage, Rewrap overwrites a Put, and undoes a Delete,
// that happens while it runs. So nothing else may write the object then. The other errors are Get's
// and Put's.
func (h *Host) Rewrap(ctx context.Context, key string) error {
	return h.renew(ctx, "rewrap", key, func(stored io.Reader) (io.Reader, error) {
		renewed, err := h.RewrapObject(ctx, key, stored)
		if err != nil {
			return nil, err // renewed would be an io.Reader that holds a nil pointer, and not nil
		}
		return renewed, nil
	})
}

// IsCurrent reports whether an object is under the default provider's key and no other, in the
// version with which the provider wraps now, and in today's format. Under branch keys, that is the
// version in the provider's cache. There is then no need to Rewrap the object. IsCurrent reads the
// object's header and, unlike Get and Rewrap, does not verify it. Some providers call their key
// service; see [provider.VersionedKeyring].
//
// It is false for anything that is not a stored object of a host. The error is the storage's or the
// provider's.
func (h *Host) IsCurrent(ctx context.Context, key string) (current bool, err error) {
	stored, err := h.storage.Get(ctx, key)
	if err != nil {
		return false, err
	}
	defer func() {
		if err = errors.Join(err, stored.Close()); err != nil {
			current, err = false, fmt.Errorf("is current %s: %w", key, err)
		}
	}()
	parsed, err := h.ReadHeader(stored)
	switch {
	case errors.Is(err, provider.ErrInvalidCiphertext):
		return false, nil
	case err != nil:
		return false, err
	case acceptObject(parsed) != nil:
		return false, nil
	}
	return h.encrypter.IsCurrent(ctx, parsed, h.bound(key))
}

// RewrapObject returns what Rewrap would store for the object that is stored under key, for a
// storage that the caller drives. The object is complete only when it is read to io.EOF. After an
// error, or if reading stops before, the storage must keep what it has. The errors are Get's and
// Put's.
func (h *Host) RewrapObject(ctx context.Context, key string, stored io.Reader) (*message.EncryptReader, error) {
	whole, err := sniffObject(stored)
	if err != nil {
		return nil, err
	}
	strict := h.decrypter
	strict.Accept = acceptObject
	renewed, err := message.Rewrap(ctx, whole, &strict, &h.encrypter, h.bound(key))
	if err != nil {
		return nil, h.nameOptions(err)
	}
	if _, err := recordedNames(renewed.Header().EncryptionContext[PairTransformers]); err != nil {
		return nil, err
	}
	return renewed, nil
}

// BindObject returns what RewrapObject would for an object that is bound to no name, bound to key
// as BindObjectName says. Use it after that option was added, for each object once.
//
// An object without a name is authentic wherever it lies. So whoever can write to the storage may
// have put another object of the same keys under key, and that is then authentic under key for
// ever. The error holds ErrConfig if the host binds no names, and provider.ErrContextMismatch if
// the object stores a name. The other errors are RewrapObject's.
func (h *Host) BindObject(ctx context.Context, key string, stored io.Reader) (*message.EncryptReader, error) {
	if h.bucket == "" {
		return nil, fmt.Errorf("%w: BindObject needs a host with BindObjectName", ErrConfig)
	}
	content, pairs, err := h.readStrictly(ctx, stored, nil)
	if err != nil {
		return nil, err
	}
	for name, value := range h.bound(key) {
		if stored, ok := pairs[name]; ok {
			return nil, fmt.Errorf("%w: the object stores the name %q as %q already", provider.ErrContextMismatch, stored, name)
		}
		pairs[name] = value
	}
	return h.encrypter.NewReader(ctx, content, pairs)
}

// sniffObject returns a reader of all that is stored, if it begins like an object of a host.
func sniffObject(stored io.Reader) (io.Reader, error) {
	start, whole, err := sniff(stored)
	switch {
	case err != nil:
		return nil, err
	case pikov2.Sniff(start):
		return nil, fmt.Errorf("%w: %w: Migrate moves it", provider.ErrInvalidCiphertext, message.ErrPikoV2)
	case !header.Sniff(start):
		return nil, fmt.Errorf("%w: it does not begin as an AWS Encryption SDK message; Migrate moves objects from before", ErrPlaintext)
	}
	return whole, nil
}

// Migrate makes a stored object of something else: plain content, a stream that Piko wrote before
// it used pikokms, a message of AWS's tools, or an object of AWS's S3 Encryption Client. It moves
// what the host may read by AllowPlaintext, AllowPikoV2, AllowForeignMessages and
// AllowS3EncryptionClient. It leaves a stored object as it is.
//
// Whatever is stored under key becomes authentic for ever. So migrate only keys whose content is
// known to be right. The rest is as in Rewrap.
func (h *Host) Migrate(ctx context.Context, key string) error {
	return h.renew(ctx, "migrate", key, func(stored io.Reader) (io.Reader, error) {
		kind, whole, err := h.kindOf(ctx, stored, stored)
		if err != nil {
			return nil, err
		}
		if kind.client != nil {
			return h.moveS3EC(ctx, key, kind.client, whole)
		}
		if kind == encryptedMessage {
			return h.adopt(ctx, key, whole)
		}
		content, err := h.reverse(ctx, key, whole, nil)
		if err != nil {
			return nil, err
		}
		return h.chain.transform(ctx, content, h.bound(key))
	})
}

// moveS3EC returns an object of the S3 Encryption Client as a stored object.
func (h *Host) moveS3EC(ctx context.Context, key string, client *s3ec.Header, stored io.Reader) (io.Reader, error) {
	content, err := h.decryptS3EC(ctx, client, stored, nil)
	if err != nil {
		return nil, err
	}
	sealed, err := h.EncryptObject(ctx, key, content, client.Context)
	if err != nil {
		closeContent(content)
		return nil, err
	}
	return &s3ec.Moved{Reader: sealed, Content: content}, nil
}

// adopt returns a message as a stored object, with the same encryption context and chain. It
// returns errStays if the message is a stored object already.
func (h *Host) adopt(ctx context.Context, key string, stored io.Reader) (io.Reader, error) {
	content, err := h.decrypter.NewReader(ctx, stored, h.bound(key))
	if err != nil {
		return nil, h.nameOptions(err)
	}
	pairs := maps.Clone(content.EncryptionContext())
	if pairs[provider.PairUse] == provider.UseObject {
		return nil, errStays
	}
	if _, err := recordedNames(pairs[PairTransformers]); err != nil {
		return nil, err
	}
	delete(pairs, header.PublicKeyName)
	if pairs == nil {
		pairs = make(map[string]string, 1)
	}
	pairs[provider.PairUse] = provider.UseObject
	return h.encrypter.NewReader(ctx, content, pairs)
}

// errStays means that an object is not to be replaced.
var errStays = errors.New("the object stays as it is")

// renew replaces an object by the result of renewed, if the object is still the one that was read.
func (h *Host) renew(ctx context.Context, operation, key string, renewed func(stored io.Reader) (io.Reader, error)) error {
	stored, put, err := h.forRenewal(ctx, key)
	if err != nil {
		return err
	}
	closeStored := sync.OnceValue(stored.Close)
	content, err := renewed(stored)
	if err == nil {
		moved, ok := content.(*s3ec.Moved)
		switch {
		case ok: // stored was read to its end, and put must get a *s3ec.Moved
			defer closeContent(moved.Content)
			err = closeStored()
		case runtime.GOOS == "windows": // Windows does not replace open files
			content = &closedAtEOF{content, closeStored}
		}
		if err == nil {
			err = put(ctx, key, content)
		}
	}
	if err == errStays {
		err = nil
	}
	if err := errors.Join(err, closeStored()); err != nil {
		return fmt.Errorf("%s %s: %w", operation, key, err)
	}
	return nil
}

// forRenewal opens an object, and returns the function that replaces it.
func (h *Host) forRenewal(ctx context.Context, key string) (stored io.ReadCloser, put func(context.Context, string, io.Reader) error, err error) {
	conditional, ok := h.storage.(ConditionalStorage)
	if !ok {
		stored, err = h.storage.Get(ctx, key)
		return stored, h.storage.Put, err
	}
	stored, version, err := conditional.GetVersion(ctx, key)
	return stored, func(ctx context.Context, key string, content io.Reader) error {
		return conditional.PutIf(ctx, key, version, content)
	}, err
}

type closedAtEOF struct {
	io.Reader
	close func() error
}

func (r *closedAtEOF) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		if err := r.close(); err != nil {
			return n, err
		}
	}
	return n, err
}

// ReEncrypt moves a string of Encrypt to the default provider's key. If KMS itself encrypted the
// string and both keys are in one Region, KMS re-encrypts it, and it is not decrypted here. The
// errors are Decrypt's and Encrypt's.
func (h *Host) ReEncrypt(ctx context.Context, text string, encryptionContext map[string]string) (string, error) {
	e, err := envelope.Parse(text)
	if err != nil {
		return "", err
	}
	for _, s := range h.services {
		if moved, ok, err := envelope.ReEncrypt(ctx, h.CryptoService(), s, e, encryptionContext); ok {
			return moved, err
		}
	}
	plaintext, err := h.Decrypt(ctx, text, encryptionContext)
	if err != nil {
		return "", err
	}
	return h.Encrypt(ctx, plaintext, encryptionContext)
}

// DecryptAndReEncrypt decrypts a string. If the string is not under the default provider's key,
// moved is the string under that key, to be stored in its place. Otherwise moved is text itself.
// The errors are Decrypt's and Encrypt's.
func (h *Host) DecryptAndReEncrypt(ctx context.Context, text string, encryptionContext map[string]string) (plaintext, moved string, err error) {
	if plaintext, err = h.Decrypt(ctx, text, encryptionContext); err != nil {
		return "", "", err
	}
	if e, err := envelope.Parse(text); err == nil && e.IsUnder(h.CryptoService()) {
		return plaintext, text, nil
	}
	if moved, err = h.Encrypt(ctx, plaintext, encryptionContext); err != nil {
		return "", "", err
	}
	return plaintext, moved, nil
}
