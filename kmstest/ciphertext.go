package kmstest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
)

// material is one backing key. Rotation adds a new one to a key and keeps the old ones.
type material struct {
	id   [sha256.Size]byte // KeyMaterialId, without its hexadecimal form
	aead cipher.AEAD
}

func newMaterial() *material {
	var secret [32]byte
	m := new(material)
	_, _ = rand.Read(secret[:])
	_, _ = rand.Read(m.id[:])
	block, err := aes.NewCipher(secret[:])
	if err != nil {
		panic(err) // the key's size is right
	}
	if m.aead, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		panic(err)
	}
	return m
}

// blobVersion is the first byte of a ciphertext of a symmetric key. The key's account follows in 12
// bytes, then the length of the key's ID in one byte, the ID, the backing key's ID in 32 bytes, and
// nonce, ciphertext and tag of AES-256-GCM. Everything before the nonce is authenticated together
// with the encryption context. No Region is named, so the replicas of a multi-Region key can read
// it.
const blobVersion = 1

type blobName struct {
	account, keyID string
	material       [sha256.Size]byte
}

func (n *blobName) append(b []byte) []byte {
	b = append(b, blobVersion)
	b = append(b, n.account...)
	b = append(b, byte(len(n.keyID)))
	b = append(b, n.keyID...)
	return append(b, n.material[:]...)
}

// parseBlob splits a ciphertext into the names of its key and the sealed part.
func parseBlob(blob []byte) (name blobName, sealed []byte, ok bool) {
	const accountSize = 12
	if len(blob) < 2+accountSize || blob[0] != blobVersion {
		return name, nil, false
	}
	name.account = string(blob[1 : 1+accountSize])
	size, rest := int(blob[1+accountSize]), blob[2+accountSize:]
	if len(rest) < size+sha256.Size {
		return name, nil, false
	}
	name.keyID = string(rest[:size])
	copy(name.material[:], rest[size:])
	return name, rest[size+sha256.Size:], true
}

// seal encrypts under a key's newest backing key.
func (k *key) seal(plaintext []byte, context map[string]string) []byte {
	m := k.newest()
	name := blobName{k.Account, k.ID, m.id}
	blob := name.append(nil)
	return m.aead.Seal(blob, nil, plaintext, authenticated(blob, context))
}

// open decrypts what seal returned, under any of the key's backing keys.
func (k *key) open(blob []byte, context map[string]string) ([]byte, *material, bool) {
	name, sealed, ok := parseBlob(blob)
	if !ok {
		return nil, nil, false
	}
	for _, m := range k.shared.materials {
		if m.id == name.material {
			plaintext, err := m.aead.Open(nil, nil, sealed, authenticated(blob[:len(blob)-len(sealed)], context))
			return plaintext, m, err == nil
		}
	}
	return nil, nil, false
}

// authenticated returns the additional data of a ciphertext: its head and its encryption context,
// in one unambiguous form.
func authenticated(head []byte, context map[string]string) []byte {
	b := bytes.Clone(head)
	for _, name := range slices.Sorted(maps.Keys(context)) {
		for _, s := range []string{name, context[name]} {
			b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
			b = append(b, s...)
		}
	}
	return b
}
