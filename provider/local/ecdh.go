package local

import (
	"crypto/ecdh"
	"crypto/rand"
	"fmt"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/ecdhwrap"
	"piko.sh/pikokms/internal/keyfile"
	"piko.sh/pikokms/provider"
)

// ecKey agrees with another key on the secret that wraps data keys (specification:
// framework/raw-ecdh-keyring.md). Without a peer, each data key is wrapped for the public key under
// an ephemeral key, and unwrapped by the private key whoever the sender is. With a peer, the
// private key and the peer's public key do both.
type ecKey struct {
	own     *ecdh.PublicKey
	private *ecdh.PrivateKey // nil to encrypt only
	peer    *ecdh.PublicKey  // nil without one
	wraps   bool
}

// newECKey makes a key from those of a PEM text. The peer's text may be nil.
func newECKey(k *pemKeys, peer []byte) (*ecKey, error) {
	key := &ecKey{wraps: k.public != nil}
	key.private, _ = k.private.(*ecdh.PrivateKey)
	if key.private != nil {
		key.own = key.private.PublicKey()
	} else {
		key.own = k.public.(*ecdh.PublicKey)
	}
	if peer == nil {
		return key, nil
	}
	parsed, err := parsePEM(peer)
	if err != nil {
		return nil, fmt.Errorf("the peer's key: %w", err)
	}
	public, ok := parsed.public.(*ecdh.PublicKey)
	switch {
	case parsed.private != nil || !ok:
		return nil, fmt.Errorf("%w: the peer's key is no public EC key", provider.ErrInvalidKey)
	case key.private == nil:
		return nil, fmt.Errorf("%w: it is a public key; with a peer, give the own private key", provider.ErrInvalidKey)
	}
	if _, err := ecdhwrap.NewParties(key.own, public); err != nil {
		return nil, err
	}
	key.peer, key.wraps = public, true
	return key, nil
}

// readPeer returns the text of the peer's public key that a configuration has, or nil.
func (c *Config) readPeer() ([]byte, error) {
	switch {
	case c.PeerFile == "":
		return c.Peer, nil
	case c.Peer != nil:
		return nil, fmt.Errorf("%w: both a peer's key file and a peer's key are given", provider.ErrInvalidKey)
	}
	text, _, err := keyfile.Read(c.PeerFile, holdsSecret)
	if err != nil {
		return nil, fmt.Errorf("local: the peer's key: %w", err)
	}
	return text, nil
}

func (k *ecKey) kind() provider.Type { return "local_ecdh" }

func (k *ecKey) algorithm() string { return "ECDH-" + ecdhwrap.CurveName(k.own) }

func (k *ecKey) encrypts() bool { return k.wraps }
func (k *ecKey) decrypts() bool { return k.private != nil }

// id names the key by the recipient's public key, as messages do.
func (k *ecKey) id() names {
	if k.peer != nil {
		return names{ecdhwrap.RawID, ecdhwrap.Name(k.peer)}
	}
	return names{ecdhwrap.RawID, ecdhwrap.Name(k.own)}
}

func (k *ecKey) wrap(plain []byte, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	if !k.wraps {
		return header.EncryptedDataKey{}, fmt.Errorf("%w: it is a private key; encrypting takes the public one (openssl pkey -in PRIVATE -pubout -out PUBLIC), or a peer", provider.ErrKeyUsage)
	}
	private, recipient := k.private, k.peer
	if recipient == nil {
		var err error
		if private, err = k.own.Curve().GenerateKey(rand.Reader); err != nil {
			return header.EncryptedDataKey{}, err
		}
		recipient = k.own
	}
	shared, err := private.ECDH(recipient)
	if err != nil {
		return header.EncryptedDataKey{}, err
	}
	defer clear(shared)
	parties := ecdhwrap.Parties{Sender: private.PublicKey(), Recipient: recipient}
	ciphertext, err := parties.Wrap(shared, plain, encryptionContext)
	return header.EncryptedDataKey{ProviderID: ecdhwrap.RawID, ProviderInfo: parties.Info(), Ciphertext: ciphertext}, err
}

// parties returns the parties of a data key, if the key is among them.
func (k *ecKey) parties(wrapped header.EncryptedDataKey) (ecdhwrap.Parties, bool) {
	if !ecdhwrap.IsECDH(wrapped) {
		return ecdhwrap.Parties{}, false
	}
	p, err := ecdhwrap.ParseInfo(wrapped.ProviderInfo)
	if err != nil {
		return p, false
	}
	if k.peer != nil {
		return p, p.Are(k.own, k.peer)
	}
	return p, p.Recipient.Equal(k.own)
}

func (k *ecKey) trusts(wrapped header.EncryptedDataKey) bool {
	_, ours := k.parties(wrapped)
	return ours
}

func (k *ecKey) unwrap(request *provider.UnwrapDataKeyRequest) ([]byte, error) {
	if k.private == nil {
		return nil, fmt.Errorf("%w: it is a public key; decrypting takes the private one", provider.ErrKeyUsage)
	}
	parties, _ := k.parties(request.EncryptedKey)
	peer := parties.Sender
	if k.peer != nil {
		peer = k.peer
	}
	shared, err := k.private.ECDH(peer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", provider.ErrDecryptionFailed, err)
	}
	defer clear(shared)
	return parties.Unwrap(shared, request.EncryptedKey.Ciphertext, request.Size, request.Context)
}

// wrapsNow reports whether the key would wrap a data key in this way today, rather than its peer.
func (k *ecKey) wrapsNow(wrapped header.EncryptedDataKey) bool {
	p, ours := k.parties(wrapped)
	return ours && wrapped.ProviderID == ecdhwrap.RawID && (k.peer == nil || p.Recipient.Equal(k.peer))
}
