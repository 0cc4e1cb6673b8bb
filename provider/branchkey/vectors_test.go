package branchkey_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/internal/kmswrap"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
)

var writeVectors = flag.Bool("write-vectors", false, "write testdata/vectors.json anew, with the SDK for Python that PIKOKMS_PYTHON names")

// vectors are a table and messages of AWS's Encryption SDK for Python and its hierarchical keyring,
// and what KMS answers about them. Nothing uses their keys.
type vectors struct {
	LogicalName string           `json:"logical_name"`
	KeyARN      string           `json:"key_arn"`
	Items       []branchkey.Item `json:"items"`
	Answers     []kmsAnswer      `json:"kms_answers"`
	Messages    []vector         `json:"messages"`
}

// kmsAnswer is what KMS answers if it is asked to decrypt.
type kmsAnswer struct {
	Enc       []byte            `json:"enc"`
	Context   map[string]string `json:"context"`
	Plaintext []byte            `json:"plaintext"`
}

type vector struct {
	BranchKeyID string            `json:"branch_key_id"`
	Suite       string            `json:"suite"`
	Plaintext   string            `json:"plaintext"`
	Context     map[string]string `json:"context,omitempty"`
	Required    []string          `json:"required,omitempty"`
	Message     []byte            `json:"message"`
}

// recordedKMS gives recorded answers.
type recordedKMS struct {
	branchkey.KMS // nil: nothing else is asked
	*vectors
}

func (k recordedKMS) KeyARN() string { return "" }

func (k recordedKMS) Trusts(keyARN string) (string, error) {
	if keyARN != k.vectors.KeyARN {
		return "", provider.ErrUntrustedKey
	}
	return keyARN, nil
}

func (k recordedKMS) Decrypt(_ context.Context, keyARN string, blob []byte, pairs map[string]string) (*provider.SecureBytes, error) {
	for _, a := range k.Answers {
		if string(a.Enc) == string(blob) && maps.Equal(a.Context, pairs) && keyARN == k.vectors.KeyARN {
			return provider.NewSecureBytes(append([]byte(nil), a.Plaintext...))
		}
	}
	return nil, fmt.Errorf("%w: nothing of the kind was recorded", provider.ErrDecryptionFailed)
}

func TestVectors(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "vectors.json"))
	require.NoError(t, err)
	var v vectors
	require.NoError(t, json.Unmarshal(text, &v))
	table := branchkey.NewFile(filepath.Join(t.TempDir(), "keys.db"))
	require.NoError(t, table.Create(t.Context()))
	for _, item := range v.Items {
		require.NoError(t, table.Write(t.Context(), []branchkey.Write{{Item: item}}))
	}
	store := branchkey.StoreOf(table, recordedKMS{vectors: &v}, v.LogicalName)
	seen := make(map[string]bool)
	for i, m := range v.Messages {
		seen[m.Suite] = true
		p := newProvider(t, store, branchkey.Config{BranchKeyID: m.BranchKeyID})
		d := message.Decrypter{Keyrings: []provider.Unwrapper{p}, CommitmentPolicy: message.RequireEncryptAllowDecrypt}
		got, pairs, err := d.Decrypt(t.Context(), m.Message, m.Context)
		require.NoError(t, err, "%d", i)
		require.Equal(t, m.Plaintext, string(got))
		for name, value := range m.Context {
			require.Equal(t, value, pairs[name])
		}
		if len(m.Required) > 0 {
			_, _, err = d.Decrypt(t.Context(), m.Message, nil)
			require.ErrorIs(t, err, provider.ErrDecryptionFailed)
		}
	}
	require.Len(t, seen, len(suites))
	t.Logf("%d vectors opened, of %d items", len(v.Messages), len(v.Items))
}

func TestWriteVectors(t *testing.T) {
	if !*writeVectors {
		t.Skip("skipped: -write-vectors writes the vectors anew")
	}
	ctx := t.Context()
	table, endpoint := newMotoTable(t)
	client := kms.New(kms.Options{Region: emulator.Region, BaseEndpoint: aws.String(endpoint), Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")})
	made, err := client.CreateKey(ctx, &kms.CreateKeyInput{})
	require.NoError(t, err)
	v := vectors{LogicalName: "vectors", KeyARN: *made.KeyMetadata.Arn}
	sdk := startSDK(t, exec.Command(os.Getenv("PIKOKMS_PYTHON"), filepath.Join("testdata", "interop.py")), endpoint)
	sdk.table, sdk.logicalName, sdk.key = table.Name(), v.LogicalName, v.KeyARN
	wrapper, err := kmswrap.New(ctx, awskms.Config{KeyID: v.KeyARN, Client: client})
	require.NoError(t, err)
	store := branchkey.StoreOf(table, wrapper, v.LogicalName)
	sdk.ask(t, sdkRequest{Op: "create-table"})

	ids := []string{sdk.ask(t, sdkRequest{Op: "create"}).ID, sdk.ask(t, sdkRequest{Op: "create", ID: "tenant-ключ", Context: map[string]string{"tenant": "42"}}).ID}
	write := func(m vector, suite header.Suite) {
		m.Suite, m.Plaintext = fmt.Sprintf("%04x", uint16(suite)), fmt.Sprintf("message %d", len(v.Messages))
		m.Message = sdk.ask(t, sdkRequest{Op: "encrypt", ID: m.BranchKeyID, Context: m.Context, Required: m.Required, Suite: suite, FrameLength: 128, Data: []byte(m.Plaintext)}).Data
		v.Messages = append(v.Messages, m)
	}
	for range 2 {
		for _, id := range ids {
			for _, suite := range suites {
				write(vector{BranchKeyID: id, Context: interopContexts[len(v.Messages)%3]}, suite)
			}
			for _, suite := range suites[3:] {
				write(vector{BranchKeyID: id, Context: map[string]string{"key": "7.pdf", "tenant": "42"}, Required: []string{"key"}}, suite)
			}
			sdk.ask(t, sdkRequest{Op: "version", ID: id})
			time.Sleep(time.Millisecond)
			require.NoError(t, store.Check(ctx, id))
		}
	}
	for _, id := range ids {
		for _, item := range itemsOf(t, table, id) {
			pairs := maps.Clone(item.Attributes)
			pairs["tablename"] = v.LogicalName
			opened, err := client.Decrypt(ctx, &kms.DecryptInput{KeyId: &v.KeyARN, CiphertextBlob: item.Enc, EncryptionContext: pairs})
			require.NoError(t, err)
			v.Items = append(v.Items, item)
			v.Answers = append(v.Answers, kmsAnswer{item.Enc, pairs, opened.Plaintext})
		}
	}
	text, err := json.MarshalIndent(v, "", "\t")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join("testdata", "vectors.json"), append(text, '\n'), 0o644))
}
