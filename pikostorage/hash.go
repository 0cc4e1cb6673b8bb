package pikostorage

import (
	"context"
	"crypto"
	_ "crypto/md5" // for crypto.MD5
	_ "crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"piko.sh/piko/wdk/storage"
)

// GetHash implements storage.ProviderPort. It returns the hash of the content that Get returns, in
// hexadecimal, and reads the whole object for it. The algorithm is the inner provider's: SHA-256 on
// disk, MD5 in S3, R2 and GCS.
func (e *encrypted) GetHash(ctx context.Context, params storage.GetParams) (string, error) {
	text, err := e.hashOf(ctx, params)
	if err != nil {
		return "", fmt.Errorf("hash %s: %w", params.Key, err)
	}
	return text, nil
}

func (e *encrypted) hashOf(ctx context.Context, params storage.GetParams) (string, error) {
	algorithm, err := e.hashAlgorithm(ctx, params)
	if err != nil {
		return "", err
	}
	o, _, err := e.openWhole(ctx, params)
	if err != nil {
		return "", err
	}
	hash := algorithm.New()
	_, err = io.Copy(hash, o)
	if err := errors.Join(err, o.Close()); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// hashAlgorithm returns the algorithm of the inner provider's hashes. Only the length of a hash
// shows it, so hashAlgorithm asks for the hash of one stored object, once.
func (e *encrypted) hashAlgorithm(ctx context.Context, params storage.GetParams) (crypto.Hash, error) {
	if known := e.hash.Load(); known != 0 {
		return crypto.Hash(known), nil
	}
	text, err := e.inner.GetHash(ctx, paramsFor(params.Repository, params.Key))
	if err != nil {
		return 0, err
	}
	for _, algorithm := range []crypto.Hash{crypto.MD5, crypto.SHA256} {
		if len(text) == hex.EncodedLen(algorithm.Size()) {
			e.hash.Store(uint32(algorithm))
			return algorithm, nil
		}
	}
	return 0, fmt.Errorf("the storage provider's hashes have %d characters, as neither MD5 nor SHA-256 in hexadecimal has", len(text))
}
