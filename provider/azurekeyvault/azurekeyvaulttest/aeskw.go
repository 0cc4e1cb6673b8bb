package azurekeyvaulttest

import (
	"crypto/aes"
	"crypto/subtle"
	"encoding/binary"
	"errors"
)

// initial is the check value of AES key wrap (RFC 3394, section 2.2.3.1).
const initial = 0xA6A6A6A6A6A6A6A6

// wrapAES wraps a value of a multiple of 8 bytes (RFC 3394, section 2.2.1).
func wrapAES(key, value []byte) ([]byte, error) {
	if len(value)%8 != 0 || len(value) < 16 {
		return nil, errors.New("the value is no multiple of 8 bytes, or too short")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	wrapped := append(binary.BigEndian.AppendUint64(nil, initial), value...)
	var b [16]byte
	for round := range 6 {
		for i := 8; i < len(wrapped); i += 8 {
			copy(b[:8], wrapped)
			copy(b[8:], wrapped[i:])
			block.Encrypt(b[:], b[:])
			step := uint64(len(value)/8*round + i/8)
			binary.BigEndian.PutUint64(wrapped, binary.BigEndian.Uint64(b[:])^step)
			copy(wrapped[i:], b[8:])
		}
	}
	return wrapped, nil
}

// unwrapAES unwraps a value (RFC 3394, section 2.2.2).
func unwrapAES(key, wrapped []byte) ([]byte, error) {
	if len(wrapped)%8 != 0 || len(wrapped) < 24 {
		return nil, errors.New("the value is no multiple of 8 bytes, or too short")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	value := append([]byte(nil), wrapped...)
	var b [16]byte
	for round := 5; round >= 0; round-- {
		for i := len(value) - 8; i >= 8; i -= 8 {
			step := uint64((len(value)/8-1)*round + i/8)
			binary.BigEndian.PutUint64(b[:], binary.BigEndian.Uint64(value)^step)
			copy(b[8:], value[i:])
			block.Decrypt(b[:], b[:])
			copy(value, b[:8])
			copy(value[i:], b[8:])
		}
	}
	if subtle.ConstantTimeCompare(value[:8], binary.BigEndian.AppendUint64(nil, initial)) != 1 {
		return nil, errors.New("the value does not unwrap")
	}
	return value[8:], nil
}
