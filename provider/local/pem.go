package local

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hpke"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"piko.sh/pikokms/internal/ecdhwrap"
	"piko.sh/pikokms/provider"
)

func isPEM(text []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(text), []byte("-----BEGIN ")) }

// pemKeys are the keys of a PEM text, either of which may be missing. Both are of one kind. Go
// keeps such keys on its heap.
type pemKeys struct {
	public  any // *rsa.PublicKey, *ecdh.PublicKey or hpke.PublicKey
	private any // *rsa.PrivateKey, *ecdh.PrivateKey or hpke.PrivateKey
}

// parsePEM reads a public key, a private key, or both.
func parsePEM(text []byte) (*pemKeys, error) {
	k := new(pemKeys)
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		defer clear(block.Bytes)
		text = rest
		if err := k.add(block); err != nil {
			return nil, fmt.Errorf("%w: PEM block %.40q: %w", provider.ErrInvalidKey, block.Type, err)
		}
	}
	switch {
	case k.public == nil && k.private == nil:
		return nil, fmt.Errorf("%w: no whole PEM block in it", provider.ErrInvalidKey)
	case !k.isPair():
		return nil, fmt.Errorf("%w: the public and the private key are no pair", provider.ErrInvalidKey)
	}
	return k, nil
}

// isPair reports whether the keys belong together, if there are two.
func (k *pemKeys) isPair() bool {
	if k.public == nil || k.private == nil {
		return true
	}
	switch private := k.private.(type) {
	case *rsa.PrivateKey:
		public, ok := k.public.(*rsa.PublicKey)
		return ok && private.PublicKey.Equal(public)
	case *ecdh.PrivateKey:
		public, ok := k.public.(*ecdh.PublicKey)
		return ok && private.PublicKey().Equal(public)
	case hpke.PrivateKey:
		public, ok := k.public.(hpke.PublicKey)
		return ok && private.KEM().ID() == public.KEM().ID() && bytes.Equal(private.PublicKey().Bytes(), public.Bytes())
	}
	return false
}

func (k *pemKeys) add(block *pem.Block) error {
	var key any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY", "EC PRIVATE KEY":
		if block.Headers["DEK-Info"] != "" {
			return errors.New("it is encrypted; decrypt it with openssl pkey -in KEY -out PLAIN")
		}
		if block.Type == "RSA PRIVATE KEY" {
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		} else {
			key, err = x509.ParseECPrivateKey(block.Bytes)
		}
	case hpkePublicBlock, hpkePrivateBlock:
		key, err = parseHPKE(block)
	case "EC PARAMETERS": // openssl ecparam writes them before the key, which repeats them
		return nil
	case "ENCRYPTED PRIVATE KEY":
		return errors.New("it is encrypted; decrypt it with openssl pkey -in KEY -out PLAIN")
	default:
		return errors.New("known are PUBLIC KEY, RSA PUBLIC KEY, PRIVATE KEY, RSA PRIVATE KEY, EC PRIVATE KEY and those of pikokms keygen")
	}
	if err != nil {
		return errors.New("it does not parse as a key") // the parser's error might show parts of the key
	}
	switch parsed := key.(type) {
	case *rsa.PublicKey, *rsa.PrivateKey, hpke.PublicKey, hpke.PrivateKey:
	case *ecdsa.PublicKey:
		if key, err = ecdhwrap.PublicKey(parsed); err != nil {
			return err
		}
	case *ecdsa.PrivateKey:
		if key, err = parsed.ECDH(); err != nil {
			return errors.New("ECDH takes keys on the curves P-256, P-384 and P-521")
		}
	default:
		return errors.New("it is neither an RSA key nor one on the curves P-256, P-384 and P-521")
	}
	switch key.(type) {
	case *rsa.PrivateKey, *ecdh.PrivateKey, hpke.PrivateKey:
		if k.private != nil {
			return errors.New("it is the second private key")
		}
		k.private = key
	default:
		if k.public != nil {
			return errors.New("it is the second public key")
		}
		k.public = key
	}
	return nil
}
