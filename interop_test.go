package pikokms_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// officialSDK is a process that runs AWS's Encryption SDK for Python.
type officialSDK struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
}

type sdkKey struct {
	ARN       string `json:"arn,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	Key       []byte `json:"key,omitempty"`
}

type sdkRequest struct {
	Op          string            `json:"op"`
	Key         sdkKey            `json:"key"`
	Context     map[string]string `json:"context"`
	Suite       header.Suite      `json:"suite"`
	FrameLength int               `json:"frame_length"` // 0 is unframed
	Data        []byte            `json:"data"`
}

type sdkAnswer struct {
	Data    []byte            `json:"data"`
	Context map[string]string `json:"context"`
	Error   string            `json:"error"`
}

// newOfficialSDK starts the SDK in the Python that PIKOKMS_PYTHON names, where a missing package is a failure, else in
// python3 if that has it.
func newOfficialSDK(t *testing.T, environment ...string) *officialSDK {
	t.Helper()
	python := os.Getenv("PIKOKMS_PYTHON")
	if python == "" {
		python = "python3"
		if exec.Command(python, "-c", "import aws_encryption_sdk").Run() != nil {
			t.Skip("skipped: python3 has no aws-encryption-sdk (PIKOKMS_PYTHON names a Python that has it)")
		}
	}
	command := exec.Command(python, filepath.Join("testdata", "interop.py"))
	command.Env = append(os.Environ(), environment...)
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	require.NoError(t, err)
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		require.NoError(t, in.Close())
		require.NoError(t, command.Wait())
	})
	return &officialSDK{t, in, bufio.NewReader(out)}
}

func (s *officialSDK) ask(request sdkRequest) sdkAnswer {
	s.t.Helper()
	if request.Context == nil {
		request.Context = map[string]string{}
	}
	require.NoError(s.t, json.NewEncoder(s.in).Encode(request))
	line, err := s.out.ReadBytes('\n')
	require.NoError(s.t, err, "the SDK's process ended")
	var answer sdkAnswer
	require.NoError(s.t, json.Unmarshal(line, &answer))
	return answer
}

var interopContexts = []map[string]string{
	nil,
	{"tenant": "42"},
	{"ключ": "значение", "a": "", "zz": "1", "Z": "2", "é": "3", "\U0001F511": "4", "\uFF5E": "5"},
}

// The frame lengths are multiples of 128, as the SDK for Python wants of what it writes. 0 is unframed, which only it writes.
var interopSizes = []struct{ size, frameLength int }{
	{0, 65536}, {1, 65536}, {65535, 65536}, {65536, 65536}, {65537, 65536}, {300_000, 65536},
	{0, 128}, {127, 128}, {128, 128}, {129, 128}, {4096, 128}, {100_000, 4096}, {70_000, 1 << 20},
	{0, 0}, {1, 0}, {100_000, 0},
}

// testInterop checks both directions over suites, contexts, frame lengths and sizes around frame boundaries.
func testInterop(t *testing.T, sdk *officialSDK, keyring provider.Keyring, key sdkKey, suites []header.Suite) {
	ours, theirs := 0, 0
	for _, suite := range suites {
		for _, context := range interopContexts {
			for _, c := range interopSizes {
				t.Run(fmt.Sprintf("%04x/%d/%dx%d", uint16(suite), len(context), c.size, c.frameLength), func(t *testing.T) {
					plaintext := make([]byte, c.size)
					_, _ = rand.Read(plaintext)
					if suite.Commits() && c.frameLength > 0 {
						readByThem(t, sdk, keyring, key, suite, c.frameLength, plaintext, context)
						ours++
					}
					readByUs(t, sdk, keyring, key, suite, c.frameLength, plaintext, context)
					theirs++
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
	d := message.Decrypter{Keyrings: []provider.Keyring{keyring}, CommitmentPolicy: message.RequireEncryptAllowDecrypt}
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

func TestOfficialSDKLocalKey(t *testing.T) {
	sdk := newOfficialSDK(t)
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
}

func TestOfficialSDKKMS(t *testing.T) {
	p, _, _ := newProvider(t)
	sdk := newOfficialSDK(t, "AWS_ENDPOINT_URL="+endpoint(t), "AWS_DEFAULT_REGION="+region)
	testInterop(t, sdk, p, sdkKey{ARN: p.ARN()}, []header.Suite{0x0178, 0x0378, 0x0478, 0x0578})
}
