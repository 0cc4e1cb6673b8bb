package main

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"sync"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// publicKeys are providers of key pairs.
type publicKeys struct{ rsa, ecdh, hpke provider.Provider }

// makePublicKeys makes the keys once, since it takes seconds to make an RSA key, and long to parse
// one.
var makePublicKeys = sync.OnceValues(func() (k publicKeys, err error) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		return k, err
	}
	if k.rsa, err = providerOf(rsaKey, &rsaKey.PublicKey); err != nil {
		return k, err
	}
	ecKey, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return k, err
	}
	if k.ecdh, err = providerOf(ecKey, ecKey.PublicKey()); err != nil {
		return k, err
	}
	folder, err := os.MkdirTemp("", "bench")
	if err != nil {
		return k, err
	}
	defer os.RemoveAll(folder)
	file := filepath.Join(folder, "key")
	if err := local.GenerateHPKE(file, hpke.MLKEM768X25519()); err != nil {
		return k, err
	}
	k.hpke, err = local.NewProvider(local.Config{KeyFile: file})
	return k, err
})

// providerOf returns a provider of both halves of a key.
func providerOf(private, public any) (provider.Provider, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	publicDER, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})...)
	return local.NewProvider(local.Config{Key: text})
}

// newPublicKeys returns subjects whose data keys are wrapped by a public key.
func newPublicKeys() ([]subject, error) {
	k, err := makePublicKeys()
	if err != nil {
		return nil, err
	}
	var subjects []subject
	for _, s := range []struct {
		name     string
		provider provider.Provider
	}{{"pikokms-rsa-4096", k.rsa}, {"pikokms-ecdh-p256", k.ecdh}, {"pikokms-hpke", k.hpke}} {
		made := push(s.name, &message.Encrypter{Keyring: s.provider}, &message.Decrypter{Keyrings: []provider.Unwrapper{s.provider}})
		made.most = mostOneFrame
		subjects = append(subjects, made)
	}
	return subjects, nil
}
