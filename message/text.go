package message

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"

	"piko.sh/pikokms/provider"
)

// EncryptText encrypts a request's plaintext to the base64 text of one message under keyring's data key: the direct
// operation of providers whose key service encrypts no values itself, or none of that size.
func EncryptText(ctx context.Context, keyring provider.Keyring, request *provider.EncryptRequest) (string, error) {
	e := Encrypter{Keyring: keyring}
	ciphertext, err := e.Encrypt(ctx, []byte(request.Plaintext), request.Context)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(ciphertext), nil
}

// DecryptText decrypts a message, already decoded from base64, whose encryption context must equal the request's.
func DecryptText(ctx context.Context, keyring provider.Keyring, ciphertext []byte, request *provider.DecryptRequest) (string, error) {
	d := Decrypter{Keyrings: []provider.Keyring{keyring}}
	plaintext, got, err := d.Decrypt(ctx, ciphertext, request.Context)
	if err != nil {
		return "", err
	}
	if !maps.Equal(got, request.Context) {
		return "", fmt.Errorf("%w: it has pairs that were not stated", provider.ErrContextMismatch)
	}
	return string(plaintext), nil
}
