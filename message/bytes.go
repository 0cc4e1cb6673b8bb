package message

import (
	"bytes"
	"context"
	"io"
	"math"
)

// Encrypt encrypts a value in memory to one message. The errors are those of [Encrypter.NewReader].
func (e *Encrypter) Encrypt(ctx context.Context, plaintext []byte, encryptionContext map[string]string) ([]byte, error) {
	r, err := e.NewReader(ctx, bytes.NewReader(plaintext), encryptionContext)
	if err != nil {
		return nil, err
	}
	out := new(bytes.Buffer)
	if size, err := EncryptedSize(r.header, int64(len(plaintext))); err == nil && size <= math.MaxInt { // the size of a signed message varies
		out.Grow(int(size))
	}
	if _, err := r.WriteTo(out); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Decrypt decrypts a message in memory, and returns its plaintext and its encryption context. The
// errors are those of [Decrypter.NewReader]. With an error it returns no plaintext.
func (d *Decrypter) Decrypt(ctx context.Context, ciphertext []byte, stated map[string]string) ([]byte, map[string]string, error) {
	r, err := d.NewReader(ctx, bytes.NewReader(ciphertext), stated)
	if err != nil {
		return nil, nil, err
	}
	plaintext, err := io.ReadAll(r)
	if err != nil {
		return nil, nil, err
	}
	return plaintext, r.EncryptionContext(), nil
}
