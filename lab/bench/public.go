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

// publicKeys are key pairs in PEM.
type publicKeys struct{ rsa, ecdh, hpke []byte }

// makePublicKeys makes the keys once: one of RSA takes seconds.
var makePublicKeys = sync.OnceValues(func() (k publicKeys, err error) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		return k, err
	}
	if k.rsa, err = pemOf(rsaKey, &rsaKey.PublicKey); err != nil {
		return k, err
	}
	ecKey, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return k, err
	}
	if k.ecdh, err = pemOf(ecKey, ecKey.PublicKey()); err != nil {
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
	k.hpke, err = os.ReadFile(file)
	return k, err
})

// pemOf returns both halves of a key in PEM.
func pemOf(private, public any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	publicDER, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return append(text, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})...), nil
}

// newPublicKeys returns subjects whose data keys are wrapped by a public key.
func newPublicKeys() ([]subject, error) {
	k, err := makePublicKeys()
	if err != nil {
		return nil, err
	}
	var subjects []subject
	for _, s := range []struct {
		name string
		key  []byte
	}{{"pikokms-rsa-4096", k.rsa}, {"pikokms-ecdh-p256", k.ecdh}, {"pikokms-hpke", k.hpke}} {
		p, err := local.NewProvider(local.Config{Key: append([]byte(nil), s.key...)})
		if err != nil {
			return nil, err
		}
		made := push(s.name, &message.Encrypter{Keyring: p}, &message.Decrypter{Keyrings: []provider.Unwrapper{p}})
		made.most = mostOneFrame
		subjects = append(subjects, made)
	}
	return subjects, nil
}
