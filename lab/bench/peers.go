package main

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"

	"filippo.io/age"
	mpl "github.com/aws/aws-cryptographic-material-providers-library/releases/go/mpl/awscryptographymaterialproviderssmithygenerated"
	mpltypes "github.com/aws/aws-cryptographic-material-providers-library/releases/go/mpl/awscryptographymaterialproviderssmithygeneratedtypes"
	esdk "github.com/aws/aws-encryption-sdk/releases/go/encryption-sdk/awscryptographyencryptionsdksmithygenerated"
	esdktypes "github.com/aws/aws-encryption-sdk/releases/go/encryption-sdk/awscryptographyencryptionsdksmithygeneratedtypes"
	"github.com/minio/sio"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/streamingaead"
	"gocloud.dev/secrets/localsecrets"

	"piko.sh/pikokms/header"
)

// newPeers returns other libraries under local keys, with AES-256 where they have a choice. Each is
// used in the fastest way that it offers.
func newPeers(key []byte) ([]subject, error) {
	var peers []subject
	for _, newPeer := range []func(key []byte) (subject, error){newSio, newTink, newAge, newESDK, newGoCloud} {
		peer, err := newPeer(key)
		if err != nil {
			return nil, err
		}
		peers = append(peers, peer)
	}
	for i := range peers {
		peers[i].peer = true
	}
	return peers, nil
}

// newSio uses the push streams of sio. They were measured to be faster than EncryptReader and
// DecryptReader at every size, with and without copies, by 1 to 50 %. The one exception is
// encrypting tens of MiB with copies, where pulling is 5 % faster. Each object has a key of its
// own, derived as in sio's examples; sio leaves that to its caller.
func newSio(key []byte) (subject, error) {
	nonce := make([]byte, 32) // of the last encrypted object; a program would store it beside the object
	buf := make([]byte, copyBuffer)
	push := func(newWriter func(io.Writer, sio.Config) (io.WriteCloser, error), dst io.Writer, src io.Reader) error {
		objectKey, err := hkdf.Key(sha256.New, key, nonce, "", 32)
		if err != nil {
			return err
		}
		w, err := newWriter(dst, sio.Config{Key: objectKey, CipherSuites: []byte{sio.AES_256_GCM}})
		if err != nil {
			return err
		}
		return copyAndClose(w, src, buf)
	}
	return streaming("minio/sio", "",
		func(dst io.Writer, src io.Reader) error {
			_, _ = rand.Read(nonce) // never fails
			return push(sio.EncryptWriter, dst, src)
		},
		func(dst io.Writer, src io.Reader) error { return push(sio.DecryptWriter, dst, src) }), nil
}

func newTink([]byte) (subject, error) {
	handle, err := keyset.NewHandle(streamingaead.AES256GCMHKDF1MBKeyTemplate())
	if err != nil {
		return subject{}, fmt.Errorf("tink: %w", err)
	}
	aead, err := streamingaead.New(handle)
	if err != nil {
		return subject{}, fmt.Errorf("tink: %w", err)
	}
	buf := make([]byte, copyBuffer)
	return streaming("tink", "AES256-GCM-HKDF-1MB",
		func(dst io.Writer, src io.Reader) error {
			w, err := aead.NewEncryptingWriter(dst, nil)
			if err != nil {
				return err
			}
			return copyAndClose(w, src, buf)
		},
		func(dst io.Writer, src io.Reader) error {
			r, err := aead.NewDecryptingReader(src, nil)
			if err != nil {
				return err
			}
			_, err = io.CopyBuffer(dst, r, buf)
			return err
		}), nil
}

func newAge([]byte) (subject, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return subject{}, fmt.Errorf("age: %w", err)
	}
	buf := make([]byte, copyBuffer)
	return streaming("age", "ChaCha20-Poly1305",
		func(dst io.Writer, src io.Reader) error {
			w, err := age.Encrypt(dst, identity.Recipient())
			if err != nil {
				return err
			}
			return copyAndClose(w, src, buf)
		},
		func(dst io.Writer, src io.Reader) error {
			r, err := age.Decrypt(src, identity)
			if err != nil {
				return err
			}
			_, err = io.CopyBuffer(dst, r, buf)
			return err
		}), nil
}

// newESDK makes AWS's SDK write what pikokms writes: suite 0478, and frames of 64 KiB in place of
// the SDK's default of 4,096 bytes.
func newESDK(key []byte) (subject, error) {
	materials, err := mpl.NewClient(mpltypes.MaterialProvidersConfig{})
	if err != nil {
		return subject{}, fmt.Errorf("aws-esdk-go: %w", err)
	}
	ctx := context.Background()
	keyring, err := materials.CreateRawAesKeyring(ctx, mpltypes.CreateRawAesKeyringInput{
		KeyNamespace: "bench", KeyName: "local",
		WrappingKey: key, WrappingAlg: mpltypes.AesWrappingAlgAlgAes256GcmIv12Tag16,
	})
	if err != nil {
		return subject{}, fmt.Errorf("aws-esdk-go: %w", err)
	}
	client, err := esdk.NewClient(esdktypes.AwsEncryptionSdkConfig{})
	if err != nil {
		return subject{}, fmt.Errorf("aws-esdk-go: %w", err)
	}
	suite, frameLength := mpltypes.ESDKAlgorithmSuiteIdAlgAes256GcmHkdfSha512CommitKey, int64(header.DefaultFrameLength)
	return wholeMessages("aws-esdk-go", "whole message in memory",
		func(plaintext []byte) ([]byte, error) {
			out, err := client.Encrypt(ctx, esdktypes.EncryptInput{Plaintext: plaintext, Keyring: keyring, AlgorithmSuiteId: &suite, FrameLength: &frameLength})
			if err != nil {
				return nil, err
			}
			return out.Ciphertext, nil
		},
		func(ciphertext []byte) ([]byte, error) {
			out, err := client.Decrypt(ctx, esdktypes.DecryptInput{Ciphertext: ciphertext, Keyring: keyring})
			if err != nil {
				return nil, err
			}
			return out.Plaintext, nil
		}), nil
}

func newGoCloud(key []byte) (subject, error) {
	keeper := localsecrets.NewKeeper([32]byte(key)) // a local one holds nothing to close
	ctx := context.Background()
	return wholeMessages("gocloud-secrets", "XSalsa20-Poly1305, whole message in memory",
		func(plaintext []byte) ([]byte, error) { return keeper.Encrypt(ctx, plaintext) },
		func(ciphertext []byte) ([]byte, error) { return keeper.Decrypt(ctx, ciphertext) },
	), nil
}
