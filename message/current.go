package message

import (
	"cmp"
	"context"
	"errors"
	"maps"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// IsCurrent reports whether a message with this header is as e would write it today: in e's suite,
// and with a data key under the key of each of e's keyrings and no other, in the versions with
// which the keyrings wrap now. Rewrap would only give it another data key. IsCurrent is false if a
// keyring is no [provider.VersionedKeyring]. It is also false if the message has other values than
// stated for the pairs of stated, which are as for Decrypter.NewReader.
//
// The header is not authenticated. The error is a keyring's.
func (e *Encrypter) IsCurrent(ctx context.Context, h *header.Header, stated map[string]string) (bool, error) {
	keyrings := append([]provider.Wrapper{e.Keyring}, e.Recipients...)
	if h.Suite != cmp.Or(e.Suite, header.AES256GCMHKDFSHA512CommitKey) || len(h.EncryptedDataKeys) != len(keyrings) {
		return false, nil
	}
	all := make(map[string]string, len(h.EncryptionContext)+len(stated))
	maps.Copy(all, stated)
	maps.Copy(all, h.EncryptionContext)
	for name, value := range stated {
		if all[name] != value {
			return false, nil
		}
	}
	for i, keyring := range keyrings {
		versioned, ok := keyring.(provider.VersionedKeyring)
		if !ok {
			return false, nil
		}
		request := &provider.UnwrapDataKeyRequest{EncryptedKey: h.EncryptedDataKeys[i], Context: all, Size: h.Suite.DataKeySize()}
		current, err := versioned.IsCurrent(ctx, request)
		if errors.Is(err, provider.ErrDecryptionFailed) {
			return false, nil // under another key of its name, or damaged, which decryption finds
		}
		if err != nil || !current {
			return false, err
		}
	}
	return true, nil
}
