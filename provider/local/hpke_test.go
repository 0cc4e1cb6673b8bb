package local_test

import (
	"bytes"
	"context"
	"crypto/hpke"
	"encoding/json"
	"flag"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/provider/providertest"
)

var kems = []hpke.KEM{hpke.MLKEM768X25519(), hpke.MLKEM768P256()}

// newHPKEFiles returns the files of a new key and of its public half.
func newHPKEFiles(t testing.TB, kem hpke.KEM) (file, public string) {
	file = filepath.Join(t.TempDir(), "recovery.key")
	require.NoError(t, local.GenerateHPKE(file, kem))
	return file, file + ".pub"
}

func TestHPKEKeysConform(t *testing.T) {
	for _, kem := range kems {
		file, _ := newHPKEFiles(t, kem)
		other, _ := newHPKEFiles(t, kem)
		providertest.Run(t,
			func(t *testing.T) provider.EncryptionProvider { return open(t, local.Config{KeyFile: file}) },
			func(t *testing.T) provider.EncryptionProvider { return open(t, local.Config{KeyFile: other}) })
	}
}

// A machine with the public half writes and can't read.
func TestHPKEWriteOnly(t *testing.T) {
	for _, kem := range kems {
		file, publicFile := newHPKEFiles(t, kem)
		writer, reader := open(t, local.Config{KeyFile: publicFile}), open(t, local.Config{KeyFile: file})
		require.Equal(t, provider.Type("local_hpke"), writer.Type())
		require.Equal(t, reader.KeyID(), writer.KeyID())
		require.NoError(t, provider.Check(t.Context(), writer))
		stored, err := (&message.Encrypter{Keyring: writer}).Encrypt(t.Context(), []byte("write only"), map[string]string{"tenant": "42"})
		require.NoError(t, err)
		_, _, err = (&message.Decrypter{Keyrings: []provider.Unwrapper{writer}}).Decrypt(t.Context(), stored, nil)
		require.ErrorIs(t, err, provider.ErrKeyUsage)
		got, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{reader}}).Decrypt(t.Context(), stored, nil)
		require.NoError(t, err)
		require.Equal(t, "write only", string(got))
		h, _, err := header.Parse(stored, header.Limits{})
		require.NoError(t, err)
		require.Equal(t, "HPKE public key "+writer.KeyID(), message.KeyName(h.EncryptedDataKeys[0]))
		// A data key names its public key, so that the writer knows its own.
		current, err := writer.IsCurrent(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: h.EncryptedDataKeys[0], Context: map[string]string{"tenant": "42"}, Size: 32})
		require.NoError(t, err)
		require.True(t, current)
	}
}

func TestGenerateHPKEKeepsFiles(t *testing.T) {
	file, publicFile := newHPKEFiles(t, kems[0])
	before, err := os.ReadFile(file)
	require.NoError(t, err)
	require.ErrorIs(t, local.GenerateHPKE(file, kems[0]), os.ErrExist)
	require.NoError(t, os.Remove(publicFile))
	require.ErrorIs(t, local.GenerateHPKE(file, kems[0]), os.ErrExist)
	require.NoFileExists(t, publicFile)
	require.NoError(t, os.WriteFile(file+"2.pub", nil, 0o600))
	require.ErrorIs(t, local.GenerateHPKE(file+"2", kems[0]), os.ErrExist)
	require.NoFileExists(t, file+"2")
	after, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.ErrorIs(t, local.GenerateHPKE(file+"3", hpke.MLKEM1024P384()), provider.ErrInvalidKey)
}

func TestBadHPKEConfig(t *testing.T) {
	file, _ := newHPKEFiles(t, kems[0])
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	otherFile, _ := newHPKEFiles(t, kems[1])
	other, err := os.ReadFile(otherFile)
	require.NoError(t, err)
	public := func(text []byte) []byte { return text[:bytes.Index(text, []byte("-----BEGIN PIKOKMS HPKE PRIVATE"))] }
	private := func(text []byte) []byte { return text[len(public(text)):] }
	for name, c := range map[string]struct {
		config local.Config
		says   string
	}{
		"no pair": {local.Config{Key: append(bytes.Clone(public(other)), private(text)...)}, "no pair"},
		"RSA":     {local.Config{Key: append(bytes.Clone(public(other)), privatePEM(rsaPair())...)}, "no pair"},
		"twice":   {local.Config{Key: append(bytes.Clone(public(other)), public(other)...)}, "second public key"},
		"name":    {local.Config{Key: bytes.Clone(text), Name: "x"}, "name an HPKE key by its public half"},
		"peer":    {local.Config{Key: bytes.Clone(text), Peer: publicPEM(rsaPair())}, "this is an HPKE key"},
		"KEM":     {local.Config{Key: block("PIKOKMS HPKE PUBLIC KEY", []byte{0, 0x51, 1}, nil)}, "does not parse"},
		"cut":     {local.Config{Key: block("PIKOKMS HPKE PRIVATE KEY", []byte{0, 0x50, 1}, nil)}, "does not parse"},
		"empty":   {local.Config{Key: block("PIKOKMS HPKE PRIVATE KEY", nil, nil)}, "does not parse"},
	} {
		p, err := local.NewProvider(c.config)
		require.ErrorIs(t, err, provider.ErrInvalidKey, name)
		require.ErrorContains(t, err, c.says, name)
		require.Nil(t, p)
	}
}

// Data keys of another key, for another context or with another's encapsulation are refused, and so
// are changed ones.
func TestHPKERefuses(t *testing.T) {
	race.SkipShort(t)
	random := mathrand.New(mathrand.NewPCG(1, 2))
	for _, kem := range kems {
		file, _ := newHPKEFiles(t, kem)
		strangerFile, _ := newHPKEFiles(t, kem)
		p, stranger := open(t, local.Config{KeyFile: file}), open(t, local.Config{KeyFile: strangerFile})
		pairs := map[string]string{"tenant": "42"}
		wrap := func() header.EncryptedDataKey {
			made, err := p.GenerateDataKey(t.Context(), pairs)
			require.NoError(t, err)
			require.NoError(t, made.Close())
			return made.EncryptedKey
		}
		first, second := wrap(), wrap()
		refuse := func(by provider.Provider, wrapped header.EncryptedDataKey, pairs map[string]string, want error) {
			t.Helper()
			_, err := by.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Context: pairs, Size: 32})
			require.ErrorIs(t, err, want)
		}
		refuse(stranger, first, pairs, provider.ErrUntrustedKey)
		renamed := first
		theirs, err := stranger.GenerateDataKey(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, theirs.Close())
		renamed.ProviderInfo = theirs.EncryptedKey.ProviderInfo
		refuse(stranger, renamed, pairs, provider.ErrDecryptionFailed)
		for _, wrong := range []map[string]string{nil, {"tenant": "43"}, {"tenant": "42", "more": ""}} {
			refuse(p, first, wrong, provider.ErrDecryptionFailed)
		}
		encapsulation := len(first.Ciphertext) - 32 - 16
		swapped := first
		swapped.Ciphertext = append(bytes.Clone(second.Ciphertext[:encapsulation]), first.Ciphertext[encapsulation:]...)
		refuse(p, swapped, pairs, provider.ErrDecryptionFailed)
		for range 1000 {
			changed := first
			changed.Ciphertext = bytes.Clone(changed.Ciphertext)
			changed.Ciphertext[random.IntN(len(changed.Ciphertext))] ^= byte(1 + random.IntN(255))
			refuse(p, changed, pairs, provider.ErrDecryptionFailed)
		}
		for _, cut := range []int{0, 1, encapsulation - 1, encapsulation, len(first.Ciphertext) - 1} {
			changed := first
			changed.Ciphertext = changed.Ciphertext[:cut]
			refuse(p, changed, pairs, provider.ErrDecryptionFailed)
		}
	}
}

// hpkeVector is a data key under an HPKE key, and a message. Nothing uses its key.
type hpkeVector struct {
	KEM        string            `json:"kem"`
	Key        string            `json:"key"` // PEM
	Context    map[string]string `json:"context"`
	Info       []byte            `json:"key_provider_information"`
	HPKEInfo   []byte            `json:"hpke_info"` // which follows from the two above
	Ciphertext []byte            `json:"ciphertext"`
	DataKey    []byte            `json:"data_key"`
	Message    []byte            `json:"message"` // of the same data key
	Plaintext  string            `json:"plaintext"`
}

var writeHPKEVectors = flag.Bool("write-hpke-vectors", false, "write testdata/hpke.json anew")

const hpkeVectorFile = "testdata/hpke.json"

func TestHPKEVectors(t *testing.T) {
	if *writeHPKEVectors {
		writeVectors(t)
	}
	for _, v := range readHPKEVectors(t) {
		p := open(t, local.Config{Key: []byte(v.Key)})
		key, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{
			EncryptedKey: header.EncryptedDataKey{ProviderID: "piko-hpke", ProviderInfo: v.Info, Ciphertext: v.Ciphertext},
			Context:      v.Context, Size: 32,
		})
		require.NoError(t, err)
		require.NoError(t, key.PlaintextKey.WithAccess(func(plain []byte) error { require.Equal(t, v.DataKey, plain); return nil }))
		require.NoError(t, key.Close())
		plain, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{p}}).Decrypt(t.Context(), v.Message, v.Context)
		require.NoError(t, err)
		require.Equal(t, v.Plaintext, string(plain))
		serialised, err := header.AppendContext(append([]byte("piko-hpke"), v.Info...), v.Context)
		require.NoError(t, err)
		require.Equal(t, v.HPKEInfo, serialised)
	}
}

func readHPKEVectors(t *testing.T) (vectors []hpkeVector) {
	text, err := os.ReadFile(hpkeVectorFile)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &vectors))
	require.Len(t, vectors, 4)
	return vectors
}

func writeVectors(t *testing.T) {
	var vectors []hpkeVector
	for _, kem := range kems {
		for _, pairs := range []map[string]string{nil, {"tenant": "42", "ключ": "значение"}} {
			file, _ := newHPKEFiles(t, kem)
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			p := open(t, local.Config{KeyFile: file})
			info, err := p.GetKeyInfo(t.Context(), "")
			require.NoError(t, err)
			v := hpkeVector{KEM: info.Algorithm, Key: string(text), Context: pairs, Plaintext: "hello, auditor\n"}
			keep := keeping{p, &v}
			v.Message, err = (&message.Encrypter{Keyring: keep}).Encrypt(t.Context(), []byte(v.Plaintext), pairs)
			require.NoError(t, err)
			v.HPKEInfo, err = header.AppendContext(append([]byte("piko-hpke"), v.Info...), pairs)
			require.NoError(t, err)
			vectors = append(vectors, v)
		}
	}
	text, err := json.MarshalIndent(vectors, "", "  ")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(hpkeVectorFile, append(text, '\n'), 0o644))
}

// keeping keeps the data keys that it makes, for vectors.
type keeping struct {
	provider.Provider
	v *hpkeVector
}

func (k keeping) GenerateDataKey(ctx context.Context, pairs map[string]string) (*provider.DataKey, error) {
	made, err := k.Provider.GenerateDataKey(ctx, pairs)
	if err != nil {
		return nil, err
	}
	k.v.Info, k.v.Ciphertext = made.EncryptedKey.ProviderInfo, made.EncryptedKey.Ciphertext
	return made, made.PlaintextKey.WithAccess(func(plain []byte) error { k.v.DataKey = bytes.Clone(plain); return nil })
}

// Python's cryptography has HPKE with ML-KEM-768 and X25519 by OpenSSL. It opens the vectors, and
// wraps a data key that pikokms opens.
func TestHPKEWithPython(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: Python is not for short mode")
	}
	python := os.Getenv("PIKOKMS_PYTHON")
	if python == "" {
		python = "python3"
	}
	const has = "from cryptography.hazmat.primitives import hpke; hpke.KEM.MLKEM768_X25519"
	if out, err := exec.Command(python, "-c", has).CombinedOutput(); err != nil {
		t.Skipf("skipped: %s has no package cryptography with ML-KEM in HPKE (from 48 on): %s", python, out)
	}
	command := exec.Command(python, filepath.Join("testdata", "hpke.py"), hpkeVectorFile)
	command.Stderr = os.Stderr
	out, err := command.Output()
	require.NoError(t, err)
	var wrapped []struct {
		Vector     int    `json:"vector"`
		Ciphertext []byte `json:"ciphertext"`
	}
	require.NoError(t, json.Unmarshal(out, &wrapped))
	require.Len(t, wrapped, 2)
	vectors := readHPKEVectors(t)
	for _, w := range wrapped {
		v := vectors[w.Vector]
		p := open(t, local.Config{Key: []byte(v.Key)})
		key, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{
			EncryptedKey: header.EncryptedDataKey{ProviderID: "piko-hpke", ProviderInfo: v.Info, Ciphertext: w.Ciphertext},
			Context:      v.Context, Size: 32,
		})
		require.NoError(t, err)
		require.NoError(t, key.PlaintextKey.WithAccess(func(plain []byte) error { require.Equal(t, v.DataKey, plain); return nil }))
		require.NoError(t, key.Close())
	}
	t.Logf("%d vectors opened by Python's cryptography, %d data keys that it wrapped opened here", len(wrapped), len(wrapped))
}
