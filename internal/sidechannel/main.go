// Sidechannel measures whether running times reveal secrets: how much of a key commitment is right,
// and what is wrong with a message or with a data key that an RSA key wrapped.
//
//	go run ./internal/sidechannel -n 100000
//
// It prints Welch's t for pairs of inputs that an attacker can send. If it is below 4.5, the times
// reveal nothing. No test checks the figures, since they mean little on a machine that does other
// work.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/subtle"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/big"
	"os"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/gcm"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

func main() {
	n := flag.Int("n", 100_000, "measurements of each class; a twentieth for RSA")
	flag.Parse()
	if err := run(*n, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sidechannel:", err)
		os.Exit(1)
	}
}

// comparison is two kinds of input whose times are compared.
type comparison struct {
	name      string
	inputs    [2][]byte
	operation func(input []byte)
	rsa       bool
	expected  string // why the times may differ; empty if they must not
}

func run(n int, out io.Writer) error {
	all, err := comparisons()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%-72s %8s %10s %11s %8s\n", "", "n", "median", "difference", "|t|")
	for _, c := range all {
		count := n
		if c.rsa {
			count = max(2, n/20)
		}
		v := dudect(count, c.inputs, c.operation)
		outcome := "told apart by nobody"
		if math.Abs(v.t) > 4.5 {
			outcome = "TOLD APART"
		}
		if c.expected != "" {
			outcome += ": " + c.expected
		}
		fmt.Fprintf(out, "%-72s %8d %7.1f µs %8.0f ns %8.1f  %s\n", c.name, v.n, v.median/1000, v.difference, math.Abs(v.t), outcome)
	}
	return nil
}

// opening returns an operation that opens a message, which fails.
func opening(d *message.Decrypter) func(sealed []byte) {
	return func(sealed []byte) {
		if _, err := d.NewReader(context.Background(), bytes.NewReader(sealed), nil); !errors.Is(err, provider.ErrDecryptionFailed) {
			panic(fmt.Sprintf("a message that does not open: %v", err))
		}
	}
}

func comparisons() ([]comparison, error) {
	control := make([]byte, 4096)
	early, late := bytes.Clone(control), bytes.Clone(control)
	early[0], late[4095] = 1, 1
	leaky := func(other []byte) {
		for i := range other {
			if other[i] != control[i] {
				break
			}
		}
	}
	constant := func(other []byte) { subtle.ConstantTimeCompare(other, control) }
	differing := [2][]byte{early, late}
	all := []comparison{
		{name: "control: a loop that ends at the first difference, first or last byte", inputs: differing, operation: leaky, expected: "as it must be, or the method sees nothing"},
		{name: "control: crypto/subtle on the same bytes", inputs: differing, operation: constant},
	}
	aes, err := messageComparisons()
	if err != nil {
		return nil, err
	}
	rsa, err := rsaComparisons()
	return append(append(all, aes...), rsa...), err
}

// messageComparisons compares what can be wrong with a message under an AES key.
func messageComparisons() ([]comparison, error) {
	key, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{1}, 32)})
	if err != nil {
		return nil, err
	}
	sealed, err := (&message.Encrypter{Keyring: key}).Encrypt(context.Background(), []byte("text"), map[string]string{"tenant": "acme"})
	if err != nil {
		return nil, err
	}
	h, size, err := header.Parse(sealed, header.Limits{})
	if err != nil {
		return nil, err
	}
	with := func(at int) []byte {
		b := bytes.Clone(sealed)
		b[at] ^= 0x40
		return b
	}
	commitmentAt := size - gcm.TagSize - 32
	wrappedAt := bytes.Index(sealed, h.EncryptedDataKeys[0].Ciphertext)
	contextAt := bytes.Index(sealed, []byte("acme"))
	d := &message.Decrypter{Keyrings: []provider.Unwrapper{key}}
	pair := func(name string, a, b []byte) comparison {
		return comparison{name: name, inputs: [2][]byte{a, b}, operation: opening(d)}
	}
	unwraps := pair("wrapped data key that does not open, or key commitment that is another", with(wrappedAt), with(commitmentAt))
	unwraps.expected = "by design, since keys are derived only from a data key that opened; who changes a message knows which part it changed"
	return []comparison{
		pair("key commitment: wrong in its first byte, or in its last", with(commitmentAt), with(commitmentAt+31)),
		pair("wrapped data key: wrong in its first byte, or in its tag's last", with(wrappedAt), with(wrappedAt+47)),
		pair("wrapped data key: wrong itself, or the encryption context is", with(wrappedAt), with(contextAt)),
		pair("header tag: wrong in its first byte, or in its last", with(size-gcm.TagSize), with(size-1)),
		unwraps,
	}, nil
}

// rsaComparisons compares data keys that an RSA key wrapped, or that nobody did.
func rsaComparisons() ([]comparison, error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	decrypter := func(pkcs1 bool) (*message.Decrypter, error) {
		p, err := local.NewProvider(local.Config{Key: bytes.Clone(text), PKCS1v15: pkcs1, Name: "rsa"})
		return &message.Decrypter{Keyrings: []provider.Unwrapper{p}}, err
	}
	oaep, err := decrypter(false)
	if err != nil {
		return nil, err
	}
	pkcs1, err := decrypter(true)
	if err != nil {
		return nil, err
	}
	// raw encrypts a block whose padding may be anything.
	raw := func(block []byte) []byte {
		m := new(big.Int).SetBytes(block)
		return m.Exp(m, big.NewInt(int64(private.E)), private.N).FillBytes(make([]byte, private.Size()))
	}
	block := func(start ...byte) []byte {
		b := make([]byte, private.Size())
		_, _ = rand.Read(b) // never fails
		copy(b, start)
		for i := 2; i < len(b)-33; i++ {
			b[i] |= 1 // padding has no zero byte
		}
		return b
	}
	size := private.Size()
	right := block(0, 2)
	right[size-33] = 0
	short := block(0, 2)
	copy(short[size-33:], block(0, 2)[40:])
	for i := size - 33; i < size; i++ {
		short[i] |= 1
	}
	short[size-17] = 0
	endless := block(0, 2)
	for i := size - 33; i < size; i++ {
		endless[i] |= 1
	}
	top := block(1)
	pair := func(name string, d *message.Decrypter, a, b []byte) comparison {
		return comparison{name: name, inputs: [2][]byte{messageWith(a), messageWith(b)}, operation: opening(d), rsa: true}
	}
	wrongHash, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, &private.PublicKey, make([]byte, 32), nil)
	if err != nil {
		return nil, err
	}
	return []comparison{
		pair("RSA-OAEP: a first byte that is not 0, or one that is (Manger)", oaep, raw(top), raw(block(0))),
		pair("RSA-OAEP: another hash, or no padding at all", oaep, wrongHash, raw(block(0))),
		pair("RSA PKCS #1 v1.5: right padding of 32 bytes, or no padding (Bleichenbacher)", pkcs1, raw(right), raw(block(0, 1))),
		pair("RSA PKCS #1 v1.5: right padding of 32 bytes, or of 16", pkcs1, raw(right), raw(short)),
		pair("RSA PKCS #1 v1.5: right padding of 32 bytes, or no end of the padding", pkcs1, raw(right), raw(endless)),
	}, nil
}

// messageWith returns a message whose only data key is wrapped.
func messageWith(wrapped []byte) []byte {
	h := &header.Header{
		Suite: header.AES256GCMHKDFSHA512CommitKey, MessageID: make([]byte, 32), ContentType: header.Framed, FrameLength: header.DefaultFrameLength,
		EncryptedDataKeys: []header.EncryptedDataKey{{ProviderID: "piko", ProviderInfo: []byte("rsa"), Ciphertext: wrapped}},
	}
	aead, commitment, err := h.Suite.DeriveKeys(make([]byte, 32), h.MessageID)
	if err == nil {
		h.Commitment = commitment
		err = h.Seal(aead, nil)
	}
	if err != nil {
		panic(err)
	}
	return h.Bytes()
}
