package leftover

import (
	"context"
	"sync"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// Mask returns a key with all bits inverted. Masking the result gives the key.
func Mask(key []byte) []byte {
	masked := make([]byte, len(key))
	for i, b := range key {
		masked[i] = ^b
	}
	return masked
}

// Masking is a provider that keeps a masked copy of each data key that it makes or wraps, so that
// the process under observation can send its data keys to the observer, and no copy is found.
type Masking struct {
	provider.EncryptionProvider
	mu     sync.Mutex
	masked [][]byte
}

// Masked returns the data keys in the order in which they were made.
func (m *Masking) Masked() [][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.masked
}

func (m *Masking) record(key *provider.SecureBytes) error {
	return key.WithAccess(func(plain []byte) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.masked = append(m.masked, Mask(plain))
		return nil
	})
}

// GenerateDataKey implements provider.Keyring.
func (m *Masking) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	made, err := m.EncryptionProvider.GenerateDataKey(ctx, encryptionContext)
	if err == nil {
		err = m.record(made.PlaintextKey)
	}
	return made, err
}

// WrapDataKey implements provider.Keyring.
func (m *Masking) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	if err := m.record(key); err != nil {
		return header.EncryptedDataKey{}, err
	}
	return m.EncryptionProvider.WrapDataKey(ctx, key, encryptionContext)
}
