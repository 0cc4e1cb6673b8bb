package service

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"sync"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/internal/text"
	"piko.sh/pikokms/provider"
)

// BatchError has the errors of the items of a batch that failed. The other items succeeded.
type BatchError struct {
	Errors []error // one for each item; nil for an item that succeeded
}

func (e *BatchError) Error() string {
	failed, first := 0, 0
	for i := len(e.Errors) - 1; i >= 0; i-- {
		if e.Errors[i] != nil {
			failed, first = failed+1, i
		}
	}
	return fmt.Sprintf("%d of %d items failed, the first of them item %d: %v", failed, len(e.Errors), first, e.Errors[first])
}

// Unwrap returns the errors of the items that failed.
func (e *BatchError) Unwrap() []error {
	var failed []error
	for _, err := range e.Errors {
		if err != nil {
			failed = append(failed, err)
		}
	}
	return failed
}

func (s *guarded) EncryptBatch(ctx context.Context, plaintexts []string, encryptionContext map[string]string) ([]string, error) {
	if len(plaintexts) == 0 {
		return nil, nil
	}
	pairs, err := text.Context(encryptionContext)
	if err == nil {
		err = header.CheckContext(pairs)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err)
	}
	keyring, done := s.batchKeyring()
	defer done()
	first, err := keyring.GenerateDataKey(ctx, pairs)
	if err != nil {
		return nil, err
	}
	keyID := first.KeyID
	if err := first.Close(); err != nil {
		return nil, err
	}
	return forEach(plaintexts, 1, func(plaintext string) (string, error) {
		ciphertext, err := text.Encrypt(ctx, keyring, plaintext, encryptionContext)
		if err != nil {
			return "", err
		}
		return envelope.New(keyID, s.Type(), base64.StdEncoding.EncodeToString(ciphertext))
	})
}

// batchKeyring returns the cache, with its limits, or a new cache for this batch alone.
func (s *guarded) batchKeyring() (keyring provider.Keyring, done func()) {
	if s.cache != nil {
		return s.cache, func() {}
	}
	c := newCache(uncached{s}, CacheLimits{MaxMessages: math.MaxInt64, MaxBytes: math.MaxInt64})
	return c, c.close
}

func (s *guarded) DecryptBatch(ctx context.Context, texts []string, encryptionContext map[string]string, concurrency int) ([]string, error) {
	keyring, done := s.batchKeyring()
	defer done()
	return forEach(texts, concurrency, func(item string) (string, error) {
		e, err := envelope.Parse(item)
		if err != nil {
			return "", err
		}
		if e.Provider != string(s.Type()) {
			return "", fmt.Errorf("%w: the envelope names provider %.40q, this is %q", provider.ErrUntrustedKey, e.Provider, s.Type())
		}
		ciphertext, err := base64.StdEncoding.DecodeString(e.Ciphertext)
		if err != nil {
			return "", fmt.Errorf("%w: the ciphertext is not base64: %w", provider.ErrInvalidCiphertext, err)
		}
		if header.Sniff(ciphertext) {
			return text.Decrypt(ctx, keyring, ciphertext, encryptionContext)
		}
		return envelope.Open(ctx, s, e.Ciphertext, encryptionContext)
	})
}

// forEach calls operation for every item, for at most concurrency items at once.
func forEach(items []string, concurrency int, operation func(string) (string, error)) ([]string, error) {
	results, failures := make([]string, len(items)), make([]error, len(items))
	next := make(chan int)
	var workers sync.WaitGroup
	for range max(1, min(concurrency, len(items))) {
		workers.Go(func() {
			for i := range next {
				results[i], failures[i] = operation(items[i])
			}
		})
	}
	for i := range items {
		next <- i
	}
	close(next)
	workers.Wait()
	if errors.Join(failures...) != nil {
		return results, &BatchError{failures}
	}
	return results, nil
}
