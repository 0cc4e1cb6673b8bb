package message_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// demoKey stands for a provider of package awskms, or for a local key file.
func demoKey() provider.Provider {
	key, err := local.NewProvider(local.Config{Key: []byte("never use a key that is a text!!")})
	if err != nil {
		panic(err)
	}
	return key
}

// A value in memory is one message. Whoever decrypts it learns its encryption context, too.
func Example() {
	ctx := context.Background()
	key := demoKey() // awskms.NewProvider(…)
	defer key.Close()

	e := &message.Encrypter{Keyring: key}
	stored, err := e.Encrypt(ctx, []byte("Attack at dawn."), map[string]string{"tenant": "acme"})
	if err != nil {
		panic(err)
	}
	d := &message.Decrypter{Keyrings: []provider.Unwrapper{key}}
	plaintext, encryptionContext, err := d.Decrypt(ctx, stored, nil)
	fmt.Println(string(plaintext), encryptionContext, err)
	// Output: Attack at dawn. map[tenant:acme] <nil>
}

// Open reads a range of a large message. Only the frames that it touches are read and decrypted.
func ExampleDecrypter_Open() {
	ctx := context.Background()
	key := demoKey()
	defer key.Close()
	stored, err := (&message.Encrypter{Keyring: key}).Encrypt(ctx, bytes.Repeat([]byte("0123456789"), 100_000), nil)
	if err != nil {
		panic(err)
	}

	d := &message.Decrypter{Keyrings: []provider.Unwrapper{key}}
	object := bytes.NewReader(stored) // or an *os.File
	plaintext, err := d.Open(ctx, object, object.Size(), nil)
	if err != nil {
		panic(err)
	}
	part := make([]byte, 5)
	_, err = plaintext.ReadAt(part, 500_003)
	fmt.Println(plaintext.Size(), string(part), err)
	// Output: 1000000 34567 <nil>
}

// A header shows under which keys a message is, without asking any of them.
func ExampleReadHeader() {
	ctx := context.Background()
	key := demoKey()
	defer key.Close()
	stored, err := (&message.Encrypter{Keyring: key}).Encrypt(ctx, []byte("Attack at dawn."), nil)
	if err != nil {
		panic(err)
	}

	h, err := message.ReadHeader(bytes.NewReader(stored), header.Limits{})
	if err != nil {
		panic(err)
	}
	for _, k := range h.EncryptedDataKeys {
		fmt.Println(k.ProviderID, message.KeyName(k))
	}
	// Output: piko local
}

// Pull streams read a file as a message, and a message as a file.
func ExampleEncrypter_NewReader() {
	ctx := context.Background()
	key := demoKey()
	defer key.Close()

	e := &message.Encrypter{Keyring: key}
	sealed, err := e.NewReader(ctx, strings.NewReader("Attack at dawn."), map[string]string{"tenant": "acme"})
	if err != nil {
		panic(err)
	}
	size, err := message.EncryptedSize(sealed.Header(), 15) // known before a byte is read, for a Content-Length
	if err != nil {
		panic(err)
	}
	var object bytes.Buffer
	if _, err := io.Copy(&object, sealed); err != nil {
		panic(err)
	}
	fmt.Println("as stated:", int64(object.Len()) == size)

	d := &message.Decrypter{Keyrings: []provider.Unwrapper{key}}
	opened, err := d.NewReader(ctx, &object, map[string]string{"tenant": "acme"})
	if err != nil {
		panic(err)
	}
	fmt.Println("context:", opened.EncryptionContext())
	if _, err := io.Copy(os.Stdout, opened); err != nil { // without an error the plaintext is whole
		panic(err)
	}
	// Output:
	// as stated: true
	// context: map[tenant:acme]
	// Attack at dawn.
}

// With push streams, a message or a plaintext is complete only when Close returns nil. After an
// earlier return or a panic it stays incomplete.
func ExampleEncrypter_NewWriter() {
	ctx := context.Background()
	key := demoKey()
	defer key.Close()

	e := &message.Encrypter{Keyring: key}
	report := func(dst io.Writer) error {
		w, err := e.NewWriter(ctx, dst, nil)
		if err != nil {
			return err
		}
		defer w.Abort() // does nothing after Close
		for i := range 3 {
			if _, err := fmt.Fprintln(w, "line", i); err != nil {
				return err
			}
		}
		return w.Close()
	}
	var object bytes.Buffer
	if err := report(&object); err != nil {
		panic(err)
	}

	d := &message.Decrypter{Keyrings: []provider.Unwrapper{key}}
	o := d.NewWriter(ctx, os.Stdout, nil)
	if _, err := o.Write(object.Bytes()); err != nil {
		panic(err)
	}
	if err := o.Close(); err != nil {
		panic(err)
	}
	// Output:
	// line 0
	// line 1
	// line 2
}

// Each recipient's key opens the message alone. Here, one is the key of a key service for every
// day, and the other lies in a safe for the day when that is gone.
func ExampleEncrypter_recipients() {
	ctx := context.Background()
	everyday := demoKey()
	defer everyday.Close()
	escrow, err := local.NewProvider(local.Config{Key: []byte("another one, kept in a safe.....")[:32], Name: "escrow"})
	if err != nil {
		panic(err)
	}
	defer escrow.Close()

	e := &message.Encrypter{Keyring: everyday, Recipients: []provider.Wrapper{escrow}}
	sealed, err := e.Encrypt(ctx, []byte("Attack at dawn."), nil)
	if err != nil {
		panic(err)
	}
	d := &message.Decrypter{Keyrings: []provider.Unwrapper{escrow}}
	plaintext, _, err := d.Decrypt(ctx, sealed, nil)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", plaintext)
	// Output:
	// Attack at dawn.
}

// Stated pairs tie an object to its place. A message of another tenant is refused before the key
// service is asked.
func ExampleDecrypter_NewReader() {
	ctx := context.Background()
	key := demoKey()
	defer key.Close()
	sealed, err := (&message.Encrypter{Keyring: key}).Encrypt(ctx, []byte("Attack at dawn."), map[string]string{"tenant": "acme"})
	if err != nil {
		panic(err)
	}
	d := &message.Decrypter{Keyrings: []provider.Unwrapper{key}}
	_, err = d.NewReader(ctx, bytes.NewReader(sealed), map[string]string{"tenant": "other"})
	fmt.Println(errors.Is(err, provider.ErrContextMismatch))
	// Output:
	// true
}

// The plaintext's size is known from the header and the object's size, without a key.
func ExamplePlaintextSize() {
	ctx := context.Background()
	key := demoKey()
	defer key.Close()
	sealed, err := (&message.Encrypter{Keyring: key}).Encrypt(ctx, make([]byte, 1_000_000), nil)
	if err != nil {
		panic(err)
	}
	h, err := header.Read(bytes.NewReader(sealed), header.Limits{})
	if err != nil {
		panic(err)
	}
	n, err := message.PlaintextSize(h, int64(len(sealed)))
	if err != nil {
		panic(err)
	}
	fmt.Println(n)
	// Output:
	// 1000000
}

// Rewrap moves an object to another key, in one stream. Its plaintext reaches no disk.
func ExampleRewrap() {
	ctx := context.Background()
	old, err := local.NewProvider(local.Config{Key: make([]byte, 32), Name: "2025"})
	if err != nil {
		log.Fatal(err)
	}
	renewed, err := local.NewProvider(local.Config{Key: make([]byte, 32), Name: "2026"})
	if err != nil {
		log.Fatal(err)
	}
	stored, err := (&message.Encrypter{Keyring: old}).Encrypt(ctx, []byte("content"), map[string]string{"tenant": "42"})
	if err != nil {
		log.Fatal(err)
	}

	moved, err := message.Rewrap(ctx, bytes.NewReader(stored), &message.Decrypter{Keyrings: []provider.Unwrapper{old}}, &message.Encrypter{Keyring: renewed}, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(message.KeyName(moved.Header().EncryptedDataKeys[0]), moved.Header().EncryptionContext["tenant"])
	// Output: 2026 42
}
