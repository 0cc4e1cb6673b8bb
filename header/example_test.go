package header_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"

	"piko.sh/pikokms/header"
)

// storedHeader begins like a message that an AWS Encryption SDK wrote, up to the end of its header.
const storedHeader = `
	020478 808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f
	0010 0001 0006 74656e616e74 0004 61636d65
	0001
	0007 6177732d6b6d73
	004b 61726e3a6177733a6b6d733a65752d776573742d323a3131313132323232333333333a6b65792f
	     37313563303831382d353832352d343234352d613735352d313338613664396131316536
	0004 00010203
	02 00010000
	0044369f73b68422adb8d8a412a5689edcdd493729fc8187d2d6a9d00cd16357
	000102030405060708090a0b0c0d0e0f`

// Reading a header needs no key. Nothing in it is authenticated before the message is decrypted.
func ExampleRead() {
	b, err := hex.DecodeString(strings.Join(strings.Fields(storedHeader), ""))
	if err != nil {
		panic(err)
	}
	h, err := header.Read(bytes.NewReader(b), header.Limits{})
	if err != nil {
		panic(err)
	}
	fmt.Println("suite:", h.Suite)
	fmt.Println("context:", h.EncryptionContext)
	for _, key := range h.EncryptedDataKeys {
		fmt.Printf("key of %s: %s\n", key.ProviderID, key.ProviderInfo)
	}
	fmt.Println("frame length:", h.FrameLength)
	fmt.Println("header size:", h.Size())
	// Output:
	// suite: 0x0478 (AES-256-GCM, HKDF-SHA512, key commitment)
	// context: map[tenant:acme]
	// key of aws-kms: arn:aws:kms:eu-west-2:111122223333:key/715c0818-5825-4245-a755-138a6d9a11e6
	// frame length: 65536
	// header size: 200
}

// Limits bound the memory that the header of an untrusted message can take.
func ExampleLimits() {
	b, err := hex.DecodeString(strings.Join(strings.Fields(storedHeader), ""))
	if err != nil {
		panic(err)
	}
	_, _, err = header.Parse(b, header.Limits{MaxFrameLength: 4096})
	fmt.Println(err)
	// Output:
	// message header exceeds a limit: frame length 65536, at most 4096 bytes are taken (Limits.MaxFrameLength sets the limit)
}

// Sniff tells messages from other stored objects by their first bytes.
func ExampleSniff() {
	for _, start := range []string{"\x02\x04\x78\x80", "\x01\x80\x03\x78", "%PDF", "AgR4"} {
		fmt.Println(header.Sniff([]byte(start)))
	}
	// Output:
	// true
	// true
	// false
	// false
}

func ExampleAppendContext() {
	b, err := header.AppendContext(nil, map[string]string{"tenant": "acme", "purpose": "backup"})
	if err != nil {
		panic(err)
	}
	fmt.Printf("%q\n", b)
	// Output:
	// "\x00\x02\x00\apurpose\x00\x06backup\x00\x06tenant\x00\x04acme"
}
