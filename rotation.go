package pikokms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"piko.sh/pikokms/envelope"
	"piko.sh/pikokms/message"
)

// RotateKey makes another registered provider the default: from now on objects and strings are written under its key, while
// those under all registered keys are read as before. Rewrap moves old objects, ReEncrypt old strings. The rotation that AWS
// KMS does of a key by itself needs none of these. The error holds ErrConfig.
func (h *Host) RotateKey(name string) error {
	s := h.services[name]
	if s == nil {
		return fmt.Errorf("%w: crypto provider %q is not registered; registered are %s", ErrConfig, name, strings.Join(slices.Sorted(maps.Keys(h.services)), ", "))
	}
	h.current.Store(s)
	return nil
}

// Rewrap moves an object to the default provider's key, to the current format if it is of an older one. The object is replaced
// in one step, when the whole of it is verified; on an error the old one stays. The errors are Get's and Put's.
func (h *Host) Rewrap(ctx context.Context, key string) error {
	stored, err := h.storage.Get(ctx, key)
	if err != nil {
		return err
	}
	closeStored := sync.OnceValue(stored.Close)
	moved, err := h.rewrap(ctx, key, stored)
	if err == nil {
		// The old object is closed before it is replaced, as some systems demand.
		err = h.storage.Put(ctx, key, &closedAtEOF{moved, closeStored})
	}
	if err := errors.Join(err, closeStored()); err != nil {
		return fmt.Errorf("rewrap %s: %w", key, err)
	}
	return nil
}

func (h *Host) rewrap(ctx context.Context, key string, stored io.Reader) (io.Reader, error) {
	start, whole, err := sniff(stored)
	if err != nil {
		return nil, err
	}
	kind, err := h.kindOf(start)
	if err != nil {
		return nil, err
	}
	if kind == encryptedMessage {
		return message.Rewrap(ctx, whole, &h.decrypter, &h.encrypter, h.bound(key))
	}
	content, err := h.reverse(ctx, key, whole)
	if err != nil {
		return nil, err
	}
	return h.chain.Transform(ctx, content, h.bound(key))
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

// ReEncrypt moves a string that Encrypt made to the default provider's key. A string that KMS encrypted itself is moved by KMS,
// and not decrypted here, when both keys are of one Region. The errors are Decrypt's and Encrypt's.
func (h *Host) ReEncrypt(ctx context.Context, text string, encryptionContext map[string]string) (string, error) {
	e, err := envelope.Parse(text)
	if err != nil {
		return "", err
	}
	for _, s := range h.services {
		if moved, ok, err := h.CryptoService().ReEncrypt(ctx, s, e, encryptionContext); ok {
			return moved, err
		}
	}
	plaintext, err := h.Decrypt(ctx, text, encryptionContext)
	if err != nil {
		return "", err
	}
	return h.Encrypt(ctx, plaintext, encryptionContext)
}

// DecryptAndReEncrypt decrypts a string and, when it is not under the default provider's key, also returns it moved to that key,
// to be stored in its place; else moved is text itself. The errors are Decrypt's and Encrypt's.
func (h *Host) DecryptAndReEncrypt(ctx context.Context, text string, encryptionContext map[string]string) (plaintext, moved string, err error) {
	if plaintext, err = h.Decrypt(ctx, text, encryptionContext); err != nil {
		return "", "", err
	}
	if e, err := envelope.Parse(text); err == nil && h.CryptoService().Owns(e) {
		return plaintext, text, nil
	}
	if moved, err = h.Encrypt(ctx, plaintext, encryptionContext); err != nil {
		return "", "", err
	}
	return plaintext, moved, nil
}
