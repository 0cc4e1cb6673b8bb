package message

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// dataKey asks the keyrings for the message's data key, and wraps it for each of them.
func (e *Encrypter) dataKey(ctx context.Context, h *draft) (*provider.DataKey, error) {
	if e.Keyring == nil {
		return nil, fmt.Errorf("%w: %w: the Encrypter has no Keyring", provider.ErrEncryptionFailed, provider.ErrInvalidProvider)
	}
	if len(e.Recipients) == 0 {
		made, err := e.Keyring.GenerateDataKey(ctx, h.all)
		if err != nil {
			return nil, err
		}
		h.EncryptedDataKeys[0] = made.EncryptedKey
		return made, nil
	}
	raw := make([]byte, h.Suite.DataKeySize())
	_, _ = rand.Read(raw) // never fails
	key, err := provider.NewSecureBytes(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err)
	}
	keyrings := append([]provider.Wrapper{e.Keyring}, e.Recipients...)
	if err := wrapAll(ctx, keyrings, key, h.all, h.EncryptedDataKeys); err != nil {
		return nil, errors.Join(err, key.Close())
	}
	if err := checkNames(h.EncryptedDataKeys); err != nil {
		return nil, errors.Join(refused(err), key.Close())
	}
	return &provider.DataKey{PlaintextKey: key, EncryptedKey: h.EncryptedDataKeys[0]}, nil
}

// checkNames refuses data keys under more wrapping keys of one name than a reader tries by default.
func checkNames(wrapped []header.EncryptedDataKey) error {
	type name struct {
		provider, key string
		size          int // the IV distinguishes a raw AES key from an RSA key of the same name
	}
	counts, most := make(map[name]int), header.Limits{}.WithDefaults().MaxAttempts
	for _, k := range wrapped {
		n := name{k.ProviderID, KeyName(k), len(k.ProviderInfo)}
		if counts[n]++; counts[n] > most {
			reason := fmt.Sprintf("over %d data keys under keys of the same name, %q of provider %q; give each key a name of its own", most, n.key, n.provider)
			return &header.LimitError{Limit: "MaxAttempts", Reason: reason}
		}
	}
	return nil
}

// wrapAll wraps a data key with all keyrings at the same time, and waits for all of them. The first
// error cancels the others.
func wrapAll(ctx context.Context, keyrings []provider.Wrapper, key *provider.SecureBytes, encryptionContext map[string]string, wrapped []header.EncryptedDataKey) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		group    sync.WaitGroup
		once     sync.Once
		first    error
		panicked any
	)
	end := func(err error, panic any) {
		once.Do(func() { first, panicked = err, panic })
		cancel()
	}
	for i, keyring := range keyrings {
		group.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					end(nil, p)
				}
			}()
			var err error
			if wrapped[i], err = keyring.WrapDataKey(ctx, key, encryptionContext); err != nil {
				end(err, nil)
			}
		})
	}
	group.Wait()
	if panicked != nil {
		panic(panicked)
	}
	return first
}
