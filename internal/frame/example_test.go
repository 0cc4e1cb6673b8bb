package frame_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"io"
	"os"
	"strings"

	"piko.sh/pikokms/internal/frame"
)

// The size of a body is known before any byte of it is sealed. So is the size of its plaintext
// before it is opened.
func ExampleEncryptedSize() {
	const frameLength = 65536
	for _, n := range []int64{0, 65536, 65537, 1 << 30} {
		sealed, err := frame.EncryptedSize(n, frameLength)
		if err != nil {
			panic(err)
		}
		back, err := frame.PlaintextSize(sealed, frameLength)
		if err != nil {
			panic(err)
		}
		fmt.Println(n, "→", sealed, "→", back)
	}
	// Output:
	// 0 → 40 → 0
	// 65536 → 65608 → 65536
	// 65537 → 65609 → 65537
	// 1073741824 → 1074266152 → 1073741824
}

func ExamplePlaintextSize() {
	_, err := frame.PlaintextSize(65577, 65536)
	fmt.Println(err)
	// Output:
	// malformed message body: no body of frame length 65536 has 65577 bytes
}

// This makes a body alone. Package message also makes the key, and writes the header before the
// body.
func ExampleSealWriter() {
	block, err := aes.NewCipher(make([]byte, 32)) // a real key is random and for one message only
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	c := frame.Config{AEAD: aead, MessageID: make([]byte, 32), Length: 8}

	var sealed bytes.Buffer
	w := frame.NewSealWriter(&sealed, c)
	if _, err := io.Copy(w, strings.NewReader("Three frames of eight.\n")); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil { // only now the body is whole
		panic(err)
	}
	fmt.Println(sealed.Len(), "bytes")
	if _, err := frame.NewOpenReader(&sealed, c).WriteTo(os.Stdout); err != nil {
		panic(err)
	}
	// Output:
	// 127 bytes
	// Three frames of eight.
}
