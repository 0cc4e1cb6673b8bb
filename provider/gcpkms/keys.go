package gcpkms

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"piko.sh/pikokms/provider"
)

// maxTried is the most keys that are tried for a ciphertext whose key is not named.
const maxTried = 16

// keys are the resource names of the keys that a provider trusts: its own, those of
// Config.TrustedKeys, and those under which providers of Under have encrypted. A ciphertext never
// adds one.
type keys struct {
	mu    sync.RWMutex
	names []string // each key once, the provider's own first
	known map[string]struct{}
}

func (k *keys) trust(name string) {
	if k.trusts(name) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, known := k.known[name]; known {
		return
	}
	if k.known == nil {
		k.known = make(map[string]struct{})
	}
	k.known[name] = struct{}{}
	k.names = append(k.names, name)
}

func (k *keys) trusts(name string) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	_, known := k.known[name]
	return known
}

// candidates returns the provider's own key and then the newest.
func (k *keys) candidates() []string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	newest := slices.Clone(k.names)
	slices.Reverse(newest[1:])
	return newest[:min(len(newest), maxTried)]
}

// named returns the resource name of the key that an ID means. A version in it is left out, since
// Cloud KMS itself finds the version.
func (p *keyring) named(keyID string) (string, error) {
	name := withoutVersion(keyID)
	switch {
	case keyID == "" || name == p.own || strings.HasSuffix(p.own, "/cryptoKeys/"+keyID):
		return p.own, nil
	case !isKeyName(name):
		return "", fmt.Errorf("%w: %q is not the resource name of a key, projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY, and the provider's own is %s", provider.ErrKeyNotFound, keyID, p.own)
	}
	return name, nil
}

// candidates returns the keys under which to decrypt what does not name its key.
func (p *keyring) candidates() ([]string, error) {
	if p.under == "" {
		return p.keys.candidates(), nil
	}
	name, err := p.named(p.under)
	if err != nil {
		return nil, err
	}
	if !p.keys.trusts(name) {
		return nil, fmt.Errorf("%w: %s is not among the keys that this provider trusts; add it to TrustedKeys", provider.ErrUntrustedKey, name)
	}
	return []string{name}, nil
}
