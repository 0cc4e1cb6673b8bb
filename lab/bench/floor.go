package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha512"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// frameAdditional is the size in bytes of a final frame's additional data: message ID, a text,
// sequence number and content length.
const frameAdditional = 32 + len("AWSKMSEncryptionClient Final Frame") + 4 + 8

// floor does the cryptography that suite 0478 requires for a message of one frame, and nothing
// else. It makes, wraps and unwraps no data key, builds no header, and reads and writes nothing.
type floor struct {
	dataKey, messageID                []byte
	headerIV, frameIV                 []byte
	headerAdditional, frameAdditional []byte
	room                              []byte // what is sealed or opened
}

func newFloor(key []byte, keyring provider.Keyring) (*floor, error) {
	typical, err := (&message.Encrypter{Keyring: keyring}).NewReader(context.Background(), nil, nil)
	if err != nil {
		return nil, err
	}
	f := &floor{
		dataKey: key, messageID: make([]byte, 32),
		headerIV: make([]byte, ivSize), frameIV: make([]byte, ivSize),
		headerAdditional: make([]byte, typical.Header().Size()-tagSize), frameAdditional: make([]byte, frameAdditional),
		room: make([]byte, mostOneFrame+2*tagSize),
	}
	f.frameIV[ivSize-1] = 1
	return f, nil
}

// deriveKeys derives the cipher as header.Suite.DeriveKeys does.
func (f *floor) deriveKeys() (cipher.AEAD, error) {
	prk, err := hkdf.Extract(sha512.New, f.dataKey, f.messageID)
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Expand(sha512.New, prk, "\x04\x78DERIVEKEY", 32)
	if err != nil {
		return nil, err
	}
	if _, err := hkdf.Expand(sha512.New, prk, "COMMITKEY", 32); err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (f *floor) encrypt(w *workspace) error {
	aead, err := f.deriveKeys()
	if err != nil {
		return err
	}
	sealed := aead.Seal(f.room[:0], f.headerIV, nil, f.headerAdditional)
	sealed = aead.Seal(sealed, f.frameIV, w.in, f.frameAdditional)
	_, err = w.out.Write(sealed)
	return err
}

func (f *floor) decrypt(w *workspace) error {
	aead, err := f.deriveKeys()
	if err != nil {
		return err
	}
	tag, frame := w.in[:tagSize], w.in[tagSize:]
	if _, err := aead.Open(nil, f.headerIV, tag, f.headerAdditional); err != nil {
		return err
	}
	opened, err := aead.Open(f.room[:0], f.frameIV, frame, f.frameAdditional)
	if err != nil {
		return err
	}
	_, err = w.out.Write(opened)
	return err
}
