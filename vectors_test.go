package pikokms_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/gcm"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// vector is a message of one of AWS's SDKs. Its file and that of its key are in testdata/vectors.
// Its plaintext is vectorPlaintext. All keys have the namespace "vectors" and the name "key".
type vector struct {
	File        string            `json:"file"`
	WrittenBy   string            `json:"written_by"`
	Suite       string            `json:"suite"`
	Key         string            `json:"key"`               // its file
	Padding     string            `json:"padding,omitempty"` // of an RSA key
	Hash        string            `json:"hash,omitempty"`
	FrameLength int               `json:"frame_length"` // 0 is unframed
	Size        int               `json:"size"`         // of the plaintext
	Context     map[string]string `json:"context"`
	Required    []string          `json:"required,omitempty"` // names of pairs of the context that are not stored
}

var vectorFolder = filepath.Join("testdata", "vectors")

func vectorPlaintext(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

func vectorProvider(t *testing.T, v vector) provider.Provider {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(vectorFolder, v.Key))
	require.NoError(t, err)
	c := local.Config{Key: text, Namespace: "vectors", Name: "key"}
	if v.Padding == "" {
		c.Key, err = base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
		require.NoError(t, err)
	}
	if v.Padding == "pkcs1" {
		c.PKCS1v15 = true
	}
	c.Hash = map[string]crypto.Hash{"sha1": crypto.SHA1, "sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512}[v.Hash]
	p, err := local.NewProvider(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// A host that is allowed to reads objects of all eleven suites. Otherwise its error names the
// option.
func TestAHostReadsEverySuite(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(vectorFolder, "manifest.json"))
	require.NoError(t, err)
	var vectors []vector
	require.NoError(t, json.Unmarshal(text, &vectors))
	read := make(map[header.Suite]bool)
	for _, v := range vectors {
		if len(v.Required) > 0 {
			continue // a host states no pairs
		}
		stored, err := os.ReadFile(filepath.Join(vectorFolder, v.File))
		require.NoError(t, err)
		h, _, err := header.Parse(stored, header.Limits{})
		require.NoError(t, err)
		get := func(options ...pikokms.Option) ([]byte, error) {
			f := newFixture(t, append(options, pikokms.WithCryptoProvider("vectors", vectorProvider(t, v)), pikokms.AllowForeignMessages())...)
			require.NoError(t, os.MkdirAll(f.dir, 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(f.dir, "object"), stored, 0o600))
			r, err := f.Get(t.Context(), "object")
			if err != nil {
				return nil, err
			}
			b, err := io.ReadAll(r)
			return b, errors.Join(err, r.Close())
		}
		got, err := get(pikokms.WithCommitmentPolicy(message.RequireEncryptAllowDecrypt))
		require.NoError(t, err, v.File)
		require.True(t, bytes.Equal(vectorPlaintext(v.Size), got), v.File)
		read[h.Suite] = true
		if _, err = get(); h.Suite.Commits() {
			require.NoError(t, err, v.File)
			continue
		}
		require.ErrorIs(t, err, message.ErrCommitmentPolicy)
		require.ErrorContains(t, err, "WithCommitmentPolicy")
	}
	require.Len(t, read, len(header.Suites()))
	_, err = pikokms.New(pikokms.WithCommitmentPolicy(message.ForbidEncryptAllowDecrypt))
	require.ErrorIs(t, err, pikokms.ErrConfig)
	require.ErrorContains(t, err, "ForbidEncryptAllowDecrypt")
}

func TestVectors(t *testing.T) {
	race.SkipShort(t)
	text, err := os.ReadFile(filepath.Join(vectorFolder, "manifest.json"))
	require.NoError(t, err)
	var vectors []vector
	require.NoError(t, json.Unmarshal(text, &vectors))
	seen := make(map[header.Suite]bool)
	changes := 0
	for _, v := range vectors {
		t.Run(v.File, func(t *testing.T) {
			stored, err := os.ReadFile(filepath.Join(vectorFolder, v.File))
			require.NoError(t, err)
			h, size, err := header.Parse(stored, header.Limits{})
			require.NoError(t, err)
			require.Equal(t, v.Suite, fmt.Sprintf("%04x", uint16(h.Suite)))
			require.EqualValues(t, v.FrameLength, h.FrameLength)
			aead, _, err := header.AES256GCMHKDFSHA512CommitKey.DeriveKeys(make([]byte, 32), make([]byte, 32))
			require.NoError(t, err)
			again := *h
			require.NoError(t, again.Seal(aead, nil))
			require.Equal(t, stored[:size-gcm.TagSize], again.Bytes()[:size-gcm.TagSize])
			for _, name := range v.Required {
				require.NotContains(t, h.EncryptionContext, name)
			}
			seen[h.Suite] = true

			d := message.Decrypter{Keyrings: []provider.Unwrapper{vectorProvider(t, v)}, CommitmentPolicy: message.RequireEncryptAllowDecrypt}
			got, context, err := d.Decrypt(t.Context(), stored, v.Context)
			require.NoError(t, err)
			require.True(t, bytes.Equal(vectorPlaintext(v.Size), got))
			for name, value := range v.Context {
				require.Equal(t, value, context[name])
			}
			if plaintextSize, err := message.PlaintextSize(h, int64(len(stored))); h.Suite.Signed() {
				require.ErrorIs(t, err, header.ErrUnsupported)
			} else {
				require.NoError(t, err)
				require.EqualValues(t, v.Size, plaintextSize)
			}

			refused := func(changed []byte, what string, at int) {
				t.Helper()
				var out bytes.Buffer
				w := d.NewWriter(t.Context(), &out, v.Context)
				_, err := w.Write(changed)
				if err == nil {
					err = w.Close()
				}
				require.Error(t, err, "%s %d", what, at)
				require.True(t, bytes.HasPrefix(vectorPlaintext(v.Size), out.Bytes()), "%s %d: what was released is no beginning", what, at)
				got, _, err := d.Decrypt(t.Context(), changed, v.Context)
				require.Error(t, err, "%s %d", what, at)
				require.Nil(t, got)
				changes++
			}
			step := 5
			if v.Padding != "" {
				step = 41 // RSA takes its time
			}
			for at := 0; at < len(stored); at += step {
				changed := bytes.Clone(stored)
				changed[at] ^= 1
				refused(changed, "changed byte", at)
				refused(stored[:at], "cut at", at)
			}
			refused(append(bytes.Clone(stored), 0), "trailing byte", 0)
			if h.Suite.Commits() {
				return
			}
			d.CommitmentPolicy = message.RequireEncryptRequireDecrypt
			_, _, err = d.Decrypt(t.Context(), stored, v.Context)
			require.ErrorIs(t, err, message.ErrCommitmentPolicy)
		})
	}
	require.Len(t, seen, len(header.Suites()), "every suite has a vector")
	t.Logf("%d vectors opened, %d changed ones refused", len(vectors), changes)
}

var writeVectors = flag.Bool("write-vectors", false, "write testdata/vectors anew with AWS's SDKs")

// TestWriteVectors makes testdata/vectors: go test -run TestWriteVectors -write-vectors .
func TestWriteVectors(t *testing.T) {
	if !*writeVectors {
		t.Skip("skipped: vectors are only made with -write-vectors")
	}
	require.NoError(t, os.RemoveAll(vectorFolder))
	require.NoError(t, os.MkdirAll(vectorFolder, 0o777))
	write := func(name string, content []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(vectorFolder, name), content, 0o666))
	}
	keys := make(map[string]sdkKey)
	for _, bits := range []int{128, 192, 256} {
		raw := make([]byte, bits/8)
		_, _ = rand.Read(raw)
		name := fmt.Sprintf("aes-%d.key", bits)
		write(name, []byte(base64.StdEncoding.EncodeToString(raw)+"\n"))
		keys[name] = sdkKey{Namespace: "vectors", Name: "key", Key: raw}
	}
	_, text := newRSAPair(t)
	write("rsa.pem", text)
	keys["rsa.pem"] = sdkKey{Namespace: "vectors", Name: "key", PEM: string(text)}

	var vectors []vector
	sdks := map[string]*officialSDK{"python": newPythonSDK(t), "javascript": newJavaScriptSDK(t)}
	add := func(sdk string, suite header.Suite, v vector) {
		v.WrittenBy, v.Suite = sdk, fmt.Sprintf("%04x", uint16(suite))
		kind := strings.TrimSuffix(strings.TrimSuffix(v.Key, ".key"), ".pem")
		if v.Padding != "" {
			kind += "-" + v.Padding + v.Hash
		}
		body := fmt.Sprintf("%dx%d", v.Size, v.FrameLength)
		if v.FrameLength == 0 {
			body = fmt.Sprintf("%d-unframed", v.Size)
		}
		if v.Required != nil {
			body += "-required"
		}
		v.File = fmt.Sprintf("%s-%s-%s-%s.msg", v.Suite, kind, body, sdk)
		key := keys[v.Key]
		key.Padding, key.Hash = v.Padding, v.Hash
		answer := sdks[sdk].ask(sdkRequest{Op: "encrypt", Key: key, Context: v.Context, Required: v.Required, Suite: suite, FrameLength: v.FrameLength, Data: vectorPlaintext(v.Size)})
		if answer.Error != "" {
			t.Fatal(errors.New(answer.Error))
		}
		write(v.File, answer.Data)
		vectors = append(vectors, v)
	}
	pairs := map[string]string{"tenant": "42", "ключ": "значение", "\U0001F511": "4", "\uFF5E": ""}
	for _, suite := range header.Suites() {
		for _, key := range []string{"aes-128.key", "aes-192.key", "aes-256.key"} {
			add("python", suite, vector{Key: key, FrameLength: 128, Size: 300, Context: pairs})
		}
		for _, size := range []int{0, 128, 256} {
			add("python", suite, vector{Key: "aes-256.key", FrameLength: 128, Size: size})
		}
		add("python", suite, vector{Key: "aes-256.key", Size: 300, Context: pairs})
		add("python", suite, vector{Key: "aes-256.key"})
		add("javascript", suite, vector{Key: "aes-256.key", FrameLength: 100, Size: 300, Context: pairs})
	}
	for _, hash := range []string{"", "sha1", "sha256", "sha384", "sha512"} {
		v := vector{Key: "rsa.pem", Padding: "oaep-mgf1", Hash: hash, FrameLength: 128, Size: 129, Context: pairs}
		if hash == "" {
			v.Padding = "pkcs1"
		}
		add("python", 0x0378, v)
		add("python", 0x0478, v)
		add("javascript", 0x0578, v)
	}
	for _, suite := range []header.Suite{0x0478, 0x0578} {
		add("python", suite, vector{Key: "aes-256.key", FrameLength: 128, Size: 200, Context: map[string]string{"bucket": "b", "key": "k", "tenant": "42"}, Required: []string{"bucket", "key"}})
	}
	manifest, err := json.MarshalIndent(vectors, "", "  ")
	require.NoError(t, err)
	write("manifest.json", append(manifest, '\n'))
	t.Logf("%d vectors written", len(vectors))
}

// The annotated message of docs/FORMAT.md is a real one.
func TestFormatPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("docs", "FORMAT.md"))
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(page), "## A message, byte by byte")
	_, rest, _ = strings.Cut(rest, "```\n")
	dump, _, _ := strings.Cut(rest, "```")
	var stored []byte
	for line := range strings.Lines(dump) {
		offset, rest, ok := strings.Cut(line, "  ")
		require.True(t, ok)
		require.Equal(t, fmt.Sprintf("%02x", len(stored)), offset)
		part, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(rest[:min(47, len(rest))]), " ", ""))
		require.NoError(t, err)
		stored = append(stored, part...)
	}
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	require.Contains(t, string(page), base64.StdEncoding.EncodeToString(key))
	p, err := local.NewProvider(local.Config{Key: key})
	require.NoError(t, err)
	defer p.Close()
	got, err := open(t, stored, map[string]string{"tenant": "42"}, p)
	require.NoError(t, err)
	require.Equal(t, "hello, auditor\n", got)
}
