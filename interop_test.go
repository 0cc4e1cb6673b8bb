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
	FrameLength int               `json:"frame_length"`
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

// The frame lengths are multiples of 128, as the SDK for Python wants of what it writes.
var interopSizes = []struct{ size, frameLength int }{
	{0, 65536}, {1, 65536}, {65535, 65536}, {65536, 65536}, {65537, 65536}, {300_000, 65536},
	{0, 128}, {127, 128}, {128, 128}, {129, 128}, {4096, 128}, {100_000, 4096}, {70_000, 1 << 20},
}

// testInterop checks both directions over frame lengths, sizes around frame boundaries and contexts.
func testInterop(t *testing.T, sdk *officialSDK, keyring provider.Keyring, key sdkKey) {
	count := 0
	for _, context := range interopContexts {
		for _, c := range interopSizes {
			t.Run(fmt.Sprintf("%dx%d-%d", c.size, c.frameLength, len(context)), func(t *testing.T) {
				plaintext := make([]byte, c.size)
				_, _ = rand.Read(plaintext)

				e := message.Encrypter{Keyring: keyring, FrameLength: c.frameLength}
				ours, err := e.Encrypt(t.Context(), plaintext, context)
				require.NoError(t, err)
				opened := sdk.ask(sdkRequest{Op: "decrypt", Key: key, Data: ours})
				require.Empty(t, opened.Error)
				require.True(t, bytes.Equal(plaintext, opened.Data))
				for k, v := range context {
					require.Equal(t, v, opened.Context[k])
				}

				theirs := sdk.ask(sdkRequest{Op: "encrypt", Key: key, Context: context, FrameLength: c.frameLength, Data: plaintext})
				require.Empty(t, theirs.Error)
				d := message.Decrypter{Keyrings: []provider.Keyring{keyring}}
				got, gotContext, err := d.Decrypt(t.Context(), theirs.Data, context)
				require.NoError(t, err)
				require.True(t, bytes.Equal(plaintext, got))
				require.Len(t, gotContext, len(context))
				h, _, err := header.Parse(theirs.Data, header.Limits{})
				require.NoError(t, err)
				size, err := message.PlaintextSize(h, int64(len(theirs.Data)))
				require.NoError(t, err)
				require.EqualValues(t, c.size, size)
				count += 2
			})
		}
	}
	t.Logf("%d messages opened by the other side", count)

	e := message.Encrypter{Keyring: keyring}
	ours, err := e.Encrypt(t.Context(), []byte("secret"), nil)
	require.NoError(t, err)
	ours[len(ours)-1] ^= 1
	require.NotEmpty(t, sdk.ask(sdkRequest{Op: "decrypt", Key: key, Data: ours}).Error, "the SDK opens a changed message")
}

func TestOfficialSDKLocalKey(t *testing.T) {
	sdk := newOfficialSDK(t)
	key := make([]byte, local.KeySize)
	_, _ = rand.Read(key)
	p, err := local.NewProvider(local.Config{Key: bytes.Clone(key), Namespace: "name space", Name: "key/1"})
	require.NoError(t, err)
	defer p.Close()
	testInterop(t, sdk, p, sdkKey{Namespace: "name space", Name: "key/1", Key: key})
}

func TestOfficialSDKKMS(t *testing.T) {
	p, _, _ := newProvider(t)
	sdk := newOfficialSDK(t, "AWS_ENDPOINT_URL="+endpoint(t), "AWS_DEFAULT_REGION="+region)
	testInterop(t, sdk, p, sdkKey{ARN: p.ARN()})
}
