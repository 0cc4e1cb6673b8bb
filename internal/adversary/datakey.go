package adversary

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// ChangedDataKeys asks p a thousand times to unwrap a data key that it wrapped with these pairs,
// each time with one byte of the provider information or the ciphertext changed. The test fails
// unless p always refuses: because it does not trust the key, because the data key does not
// decrypt, or because it names a version of the key that does not exist.
func ChangedDataKeys(t testing.TB, p provider.Unwrapper, made header.EncryptedDataKey, pairs map[string]string) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		wrapped := made
		wrapped.ProviderInfo, wrapped.Ciphertext = bytes.Clone(made.ProviderInfo), bytes.Clone(made.Ciphertext)
		part := wrapped.ProviderInfo
		if random.IntN(2) == 0 {
			part = wrapped.Ciphertext
		}
		part[random.IntN(len(part))] ^= byte(1 + random.IntN(255))
		_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Context: pairs, Size: provider.DataKeySize})
		if !slices.Contains([]error{provider.ErrUntrustedKey, provider.ErrDecryptionFailed, provider.ErrKeyNotFound}, provider.Sentinel(err)) {
			t.Fatalf("a changed data key of %q gives %v", made.ProviderID, err)
		}
	}
}
