package pikokms_test

import (
	"bytes"
	"crypto"
	"crypto/hpke"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/interop"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// officialSDK is a process that runs one of AWS's Encryption SDKs.
type officialSDK struct {
	t       *testing.T
	request func(testing.TB, sdkRequest) sdkAnswer
	streams bool // it writes framed messages only
}

type sdkKey struct {
	ARN       string `json:"arn,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	Key       []byte `json:"key,omitempty"`
	PEM       string `json:"pem,omitempty"`
	Padding   string `json:"padding,omitempty"` // of an RSA key: oaep-mgf1 or pkcs1
	Hash      string `json:"hash,omitempty"`    // of oaep-mgf1
}

type sdkRequest struct {
	Op          string            `json:"op"`
	Key         sdkKey            `json:"key"`
	Context     map[string]string `json:"context"`
	Required    []string          `json:"required,omitempty"` // names of context pairs that are not stored; Python only
	Suite       header.Suite      `json:"suite"`
	FrameLength int               `json:"frame_length"` // 0 is unframed
	Data        []byte            `json:"data"`
}

type sdkAnswer struct {
	Data    []byte            `json:"data"`
	Context map[string]string `json:"context"`
	Error   string            `json:"error"`
}

// pythonPath returns the Python that PIKOKMS_PYTHON names, in which a missing package is a failure,
// or python3 if that has the module.
func pythonPath(t *testing.T, module string) string {
	t.Helper()
	if python := os.Getenv("PIKOKMS_PYTHON"); python != "" {
		return python
	}
	if exec.Command("python3", "-c", "import "+module).Run() != nil {
		t.Skipf("skipped: python3 has no %s (PIKOKMS_PYTHON names a Python that has it)", module)
	}
	return "python3"
}

func newPythonSDK(t *testing.T, environment ...string) *officialSDK {
	t.Helper()
	command := exec.Command(pythonPath(t, "aws_encryption_sdk"), filepath.Join("testdata", "interop.py"))
	return startSDK(t, command, environment)
}

func newJavaScriptSDK(t *testing.T, environment ...string) *officialSDK {
	t.Helper()
	if os.Getenv("PIKOKMS_NODE_MODULES") == "" {
		t.Skip("skipped: PIKOKMS_NODE_MODULES names no node_modules folder with @aws-crypto/client-node")
	}
	sdk := startSDK(t, exec.Command("node", filepath.Join("testdata", "interop.mjs")), environment)
	sdk.streams = true
	return sdk
}

func startSDK(t *testing.T, command *exec.Cmd, environment []string) *officialSDK {
	t.Helper()
	return &officialSDK{t: t, request: interop.Start[sdkRequest, sdkAnswer](t, command, environment...)}
}

func (s *officialSDK) ask(request sdkRequest) sdkAnswer {
	s.t.Helper()
	if request.Context == nil {
		request.Context = map[string]string{}
	}
	return s.request(s.t, request)
}

var interopContexts = []map[string]string{
	nil,
	{"tenant": "42"},
	{"ключ": "значение", "a": "", "zz": "1", "Z": "2", "é": "3", "\U0001F511": "4", "\uFF5E": "5"},
}

// The frame lengths are multiples of 128, as the SDK for Python wants of what it writes. 0 is
// unframed, which only it writes.
var interopSizes = []struct{ size, frameLength int }{
	{0, 65536}, {1, 65536}, {65535, 65536}, {65536, 65536}, {65537, 65536}, {300_000, 65536},
	{0, 128}, {127, 128}, {128, 128}, {129, 128}, {4096, 128}, {100_000, 4096}, {70_000, 1 << 20},
	{0, 0}, {1, 0}, {100_000, 0},
}

var interopAll = flag.Bool("interop.all", false, "messages of all sizes under keys of all kinds")

// testInterop checks both directions over suites, contexts, frame lengths and sizes around frame
// boundaries. Contexts, and keys of other kinds than AES-256, change the header alone, so that
// fewer sizes will do.
func testInterop(t *testing.T, sdk *officialSDK, keyring provider.Keyring, key sdkKey, suites []header.Suite) {
	ours, theirs := 0, 0
	for _, suite := range suites {
		for n, context := range interopContexts {
			for i, c := range interopSizes {
				few := n > 0 || len(key.Key) != 32
				fewer := n > 0 && len(key.Key) != 32
				if !*interopAll && (few && i%3 > 0 || fewer && i > 0) {
					continue
				}
				t.Run(fmt.Sprintf("%04x/%d/%dx%d", uint16(suite), len(context), c.size, c.frameLength), func(t *testing.T) {
					plaintext := make([]byte, c.size)
					_, _ = rand.Read(plaintext)
					if suite.Commits() && c.frameLength > 0 && key.Padding != "pkcs1" {
						readByThem(t, sdk, keyring, key, suite, c.frameLength, plaintext, context)
						ours++
					}
					if c.frameLength > 0 || !sdk.streams {
						readByUs(t, sdk, keyring, key, suite, c.frameLength, plaintext, context)
						theirs++
					}
				})
			}
		}
	}
	t.Logf("%d messages of ours opened by the SDK, %d of the SDK's opened here", ours, theirs)
}

func readByThem(t *testing.T, sdk *officialSDK, keyring provider.Keyring, key sdkKey, suite header.Suite, frameLength int, plaintext []byte, context map[string]string) {
	t.Helper()
	e := message.Encrypter{Keyring: keyring, FrameLength: frameLength, Suite: suite}
	stored, err := e.Encrypt(t.Context(), plaintext, context)
	require.NoError(t, err)
	opened := sdk.ask(sdkRequest{Op: "decrypt", Key: key, Suite: suite, Data: stored})
	require.Empty(t, opened.Error)
	require.True(t, bytes.Equal(plaintext, opened.Data))
	for k, v := range context {
		require.Equal(t, v, opened.Context[k])
	}
}

func readByUs(t *testing.T, sdk *officialSDK, keyring provider.Keyring, key sdkKey, suite header.Suite, frameLength int, plaintext []byte, context map[string]string) {
	t.Helper()
	stored := sdk.ask(sdkRequest{Op: "encrypt", Key: key, Suite: suite, Context: context, FrameLength: frameLength, Data: plaintext})
	require.Empty(t, stored.Error)
	d := message.Decrypter{Keyrings: []provider.Unwrapper{keyring}, CommitmentPolicy: message.RequireEncryptAllowDecrypt}
	got, gotContext, err := d.Decrypt(t.Context(), stored.Data, context)
	require.NoError(t, err)
	require.True(t, bytes.Equal(plaintext, got))
	for k, v := range context {
		require.Equal(t, v, gotContext[k])
	}
	var pushed bytes.Buffer
	w := d.NewWriter(t.Context(), &pushed, context)
	for rest := stored.Data; len(rest) > 0; {
		n := min(len(rest), 777)
		_, err := w.Write(rest[:n])
		require.NoError(t, err)
		rest = rest[n:]
	}
	require.NoError(t, w.Close())
	require.True(t, bytes.Equal(plaintext, pushed.Bytes()))

	h, _, err := header.Parse(stored.Data, header.Limits{})
	require.NoError(t, err)
	require.Equal(t, suite, h.Suite)
	if !suite.Signed() {
		size, err := message.PlaintextSize(h, int64(len(stored.Data)))
		require.NoError(t, err)
		require.EqualValues(t, len(plaintext), size)
	}
	d.CommitmentPolicy = message.RequireEncryptRequireDecrypt
	if _, _, err = d.Decrypt(t.Context(), stored.Data, context); suite.Commits() {
		require.NoError(t, err)
	} else {
		require.ErrorIs(t, err, message.ErrCommitmentPolicy)
	}
	stored.Data[len(stored.Data)-1] ^= 1
	d.CommitmentPolicy = message.RequireEncryptAllowDecrypt
	_, _, err = d.Decrypt(t.Context(), stored.Data, context)
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)
}

// newRSAPair returns a new key pair in PEM.
func newRSAPair(t *testing.T) (public, private []byte) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	private = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	der, err = x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), private
}

func testLocalKeys(t *testing.T, sdk *officialSDK) {
	for _, size := range []int{16, 24, 32} {
		t.Run(fmt.Sprintf("AES-%d", 8*size), func(t *testing.T) {
			key := make([]byte, size)
			_, _ = rand.Read(key)
			p, err := local.NewProvider(local.Config{Key: bytes.Clone(key), Namespace: "name space", Name: "key/1"})
			require.NoError(t, err)
			defer p.Close()
			sdk.t = t
			testInterop(t, sdk, p, sdkKey{Namespace: "name space", Name: "key/1", Key: key}, header.Suites())
		})
	}
	public, private := newRSAPair(t)
	for name, hash := range map[string]crypto.Hash{"pkcs1": 0, "sha1": crypto.SHA1, "sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512} {
		t.Run("RSA-"+name, func(t *testing.T) {
			c := local.Config{Key: append(bytes.Clone(public), private...), Namespace: "ns", Name: "rsa", Hash: hash}
			key := sdkKey{Namespace: "ns", Name: "rsa", PEM: string(private), Padding: "oaep-mgf1", Hash: name}
			if hash == 0 {
				c.PKCS1v15, key.Padding, key.Hash = true, "pkcs1", ""
			}
			p, err := local.NewProvider(c)
			require.NoError(t, err)
			defer p.Close()
			sdk.t = t
			testInterop(t, sdk, p, key, []header.Suite{0x0014, 0x0378, 0x0478, 0x0578})
			key.PEM = string(public) // all that writing takes
			readByUs(t, sdk, p, key, 0x0578, 128, []byte("written with the public key alone"), nil)
		})
	}
}

func TestPythonSDKLocalKeys(t *testing.T)     { testLocalKeys(t, newPythonSDK(t)) }
func TestJavaScriptSDKLocalKeys(t *testing.T) { testLocalKeys(t, newJavaScriptSDK(t)) }

// AWS's SDK opens a message by the key that it knows, and passes over one under HPKE.
func TestPythonSDKBesideAnHPKEKey(t *testing.T) {
	sdk := newPythonSDK(t)
	file := filepath.Join(t.TempDir(), "recovery.key")
	require.NoError(t, local.GenerateHPKE(file, hpke.MLKEM768X25519()))
	recovery, err := local.NewProvider(local.Config{KeyFile: file + ".pub"})
	require.NoError(t, err)
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	p, err := local.NewProvider(local.Config{Key: bytes.Clone(raw), Namespace: "ns", Name: "key"})
	require.NoError(t, err)
	defer p.Close()
	for _, suite := range []header.Suite{0x0478, 0x0578} {
		for _, e := range []message.Encrypter{{Keyring: p, Recipients: []provider.Wrapper{recovery}}, {Keyring: recovery, Recipients: []provider.Wrapper{p}}} {
			e.Suite = suite
			stored, err := e.Encrypt(t.Context(), []byte("for both"), map[string]string{"tenant": "42"})
			require.NoError(t, err)
			opened := sdk.ask(sdkRequest{Op: "decrypt", Key: sdkKey{Namespace: "ns", Name: "key", Key: raw}, Suite: suite, Data: stored})
			require.Empty(t, opened.Error)
			require.Equal(t, "for both", string(opened.Data))
		}
	}
}

// kmsSuites are those whose data keys LocalStack makes: it knows AES_256 only.
var kmsSuites = []header.Suite{0x0078, 0x0178, 0x0378, 0x0478, 0x0578}

func TestPythonSDKKMS(t *testing.T) {
	p, _, _ := newProvider(t)
	sdk := newPythonSDK(t, "AWS_ENDPOINT_URL="+endpoint(t), "AWS_DEFAULT_REGION="+region)
	testInterop(t, sdk, p, sdkKey{ARN: p.KeyID()}, kmsSuites)
}

func TestJavaScriptSDKKMS(t *testing.T) {
	p, _, _ := newProvider(t)
	sdk := newJavaScriptSDK(t, "AWS_ENDPOINT_URL="+endpoint(t), "AWS_DEFAULT_REGION="+region)
	testInterop(t, sdk, p, sdkKey{ARN: p.KeyID()}, kmsSuites)
}

// Pairs that are authenticated but not stored must be stated again on both sides.
func TestPythonSDKRequiredContext(t *testing.T) {
	p, _, _ := newProvider(t)
	pythonPath(t, "aws_encryption_sdk.materials_managers.mpl.cmm") // from 4.0 on, with the extra MPL
	sdk := newPythonSDK(t, "AWS_ENDPOINT_URL="+endpoint(t), "AWS_DEFAULT_REGION="+region)
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	localKey, err := local.NewProvider(local.Config{Key: bytes.Clone(raw)})
	require.NoError(t, err)
	defer localKey.Close()

	context := map[string]string{"bucket": "invoices", "key": "7.pdf", "tenant": "42"}
	stored := map[string]string{"tenant": "42"}
	required := []string{"bucket", "key"}
	messages := 0 // each way
	for name, k := range map[string]struct {
		keyring provider.Keyring
		key     sdkKey
	}{
		"kms":   {p, sdkKey{ARN: p.KeyID()}},
		"local": {localKey, sdkKey{Namespace: "piko", Name: "local", Key: raw}},
	} {
		for _, suite := range []header.Suite{0x0478, 0x0578} {
			t.Run(fmt.Sprintf("%s/%04x", name, uint16(suite)), func(t *testing.T) {
				sdk.t = t
				e := message.Encrypter{Keyring: k.keyring, Suite: suite, Required: required}
				ours, err := e.Encrypt(t.Context(), []byte("of ours"), context)
				require.NoError(t, err)
				request := sdkRequest{Op: "decrypt", Key: k.key, Suite: suite, Required: required, Context: context, Data: ours}
				opened := sdk.ask(request)
				require.Empty(t, opened.Error)
				require.Equal(t, "of ours", string(opened.Data))
				for _, reproduced := range []map[string]string{nil, stored, {"bucket": "invoices"}} {
					request.Context = reproduced
					require.Contains(t, sdk.ask(request).Error, "missing required keys", reproduced)
				}
				request.Context = map[string]string{"bucket": "invoices", "key": "8.pdf", "tenant": "42"}
				require.Contains(t, sdk.ask(request).Error, "able to decrypt")
				request.Required = nil
				require.NotEmpty(t, sdk.ask(request).Error, "to a reader that knows of no required pairs")

				theirs := sdk.ask(sdkRequest{Op: "encrypt", Key: k.key, Suite: suite, Required: required, Context: context, FrameLength: 4096, Data: []byte("of theirs")})
				require.Empty(t, theirs.Error)
				h, _, err := header.Parse(theirs.Data, header.Limits{})
				require.NoError(t, err)
				delete(h.EncryptionContext, header.PublicKeyName)
				require.Equal(t, stored, h.EncryptionContext)
				d := message.Decrypter{Keyrings: []provider.Unwrapper{k.keyring}}
				for _, stated := range []map[string]string{context, {"bucket": "invoices", "key": "7.pdf"}} {
					got, all, err := d.Decrypt(t.Context(), theirs.Data, stated)
					require.NoError(t, err)
					require.Equal(t, "of theirs", string(got))
					require.Equal(t, "7.pdf", all["key"])
				}
				for _, stated := range []map[string]string{nil, stored} {
					// Nothing in the message shows that a pair is missing.
					_, _, err := d.Decrypt(t.Context(), theirs.Data, stated)
					require.ErrorIs(t, err, provider.ErrDecryptionFailed, stated)
				}
				for _, stated := range []map[string]string{{"bucket": "invoices"}, {"bucket": "invoices", "key": "8.pdf"}, {"bucket": "invoices", "key": "7.pdf", "more": ""}} {
					_, _, err := d.Decrypt(t.Context(), theirs.Data, stated)
					require.ErrorIs(t, err, provider.ErrDecryptionFailed, stated)
					require.ErrorIs(t, err, provider.ErrContextMismatch, stated)
				}
				messages++
			})
		}
	}
	t.Logf("%d messages of ours opened by the SDK, %d of the SDK's opened here", messages, messages)
}

func TestEncryptionCLI(t *testing.T) {
	p, _, _ := newProvider(t)
	cli := os.Getenv("PIKOKMS_ENCRYPTION_CLI")
	if cli == "" {
		var err error
		if cli, err = exec.LookPath("aws-encryption-cli"); err != nil {
			t.Skip("skipped: there is no aws-encryption-cli (PIKOKMS_ENCRYPTION_CLI may name it)")
		}
	}
	folder := t.TempDir()
	file := func(name string) string { return filepath.Join(folder, name) }
	strict := []string{"key=" + p.KeyID()}
	run := func(keys []string, arguments ...string) {
		t.Helper()
		command := exec.Command(cli, append(append(arguments, "--suppress-metadata", "--wrapping-keys"), keys...)...)
		command.Env = append(os.Environ(), "AWS_ENDPOINT_URL="+endpoint(t), "AWS_DEFAULT_REGION="+region)
		out, err := command.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	plaintext := bytes.Repeat([]byte("for the auditor\n"), 10_000)
	require.NoError(t, os.WriteFile(file("plain"), plaintext, 0o600))

	context := map[string]string{"tenant": "42"}
	discovery := []string{"discovery=true", "discovery-account=000000000000", "discovery-partition=aws", "region=" + region}
	suites := map[string]header.Suite{"AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384": 0x0578, "AES_256_GCM_HKDF_SHA512_COMMIT_KEY": 0x0478}
	for name, suite := range suites {
		e := message.Encrypter{Keyring: p, Suite: suite}
		ours, err := e.Encrypt(t.Context(), plaintext, context)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file("ours"), ours, 0o600))
		for _, keys := range [][]string{strict, discovery} {
			run(keys, "--decrypt", "--input", file("ours"), "--output", file("opened"), "--encryption-context", "tenant=42")
			opened, err := os.ReadFile(file("opened"))
			require.NoError(t, err)
			require.True(t, bytes.Equal(plaintext, opened))
			require.NoError(t, os.Remove(file("opened")))
		}

		run(strict, "--encrypt", "--algorithm", name, "--input", file("plain"), "--output", file("theirs"), "--encryption-context", "tenant=42")
		theirs, err := os.ReadFile(file("theirs"))
		require.NoError(t, err)
		require.NoError(t, os.Remove(file("theirs")))
		h, _, err := header.Parse(theirs, header.Limits{})
		require.NoError(t, err)
		require.Equal(t, suite, h.Suite)
		d := message.Decrypter{Keyrings: []provider.Unwrapper{p}}
		got, _, err := d.Decrypt(t.Context(), theirs, context)
		require.NoError(t, err)
		require.True(t, bytes.Equal(plaintext, got))
	}
	t.Logf("%d messages of ours opened by the command, %d of the command's opened here", len(suites), len(suites))
}
