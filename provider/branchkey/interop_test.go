package branchkey_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/internal/interop"
	"piko.sh/pikokms/internal/kmswrap"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
)

// officialSDK is a process that runs one of AWS's Encryption SDKs with the hierarchical keyring.
type officialSDK struct {
	request func(testing.TB, sdkRequest) sdkAnswer

	table, logicalName, key string

	contexts []map[string]string
}

type sdkRequest struct {
	Op          string            `json:"op"`
	Table       string            `json:"table"`
	LogicalName string            `json:"logical_name"`
	Key         string            `json:"key,omitempty"` // without it, discovery
	ID          string            `json:"id,omitempty"`  // without it, the value of the pair "tenant"
	Context     map[string]string `json:"context,omitempty"`
	Required    []string          `json:"required,omitempty"` // names of pairs that are not stored
	Suite       header.Suite      `json:"suite"`
	FrameLength int               `json:"frame_length"`
	Data        []byte            `json:"data,omitempty"`
}

type sdkAnswer struct {
	ID      string            `json:"id"`
	Data    []byte            `json:"data"`
	Context map[string]string `json:"context"`
	Error   string            `json:"error"`
}

func startSDK(t *testing.T, command *exec.Cmd, endpoint string) *officialSDK {
	t.Helper()
	request := interop.Start[sdkRequest, sdkAnswer](t, command, "AWS_ENDPOINT_URL="+endpoint, "AWS_DEFAULT_REGION="+emulator.Region, "AWS_REGION="+emulator.Region,
		"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test")
	return &officialSDK{request: request, contexts: interopContexts}
}

// try asks the SDK, which may answer with an error.
func (s *officialSDK) try(t *testing.T, request sdkRequest) sdkAnswer {
	t.Helper()
	request.Table, request.LogicalName = s.table, s.logicalName
	return s.request(t, request)
}

// ask asks the SDK under its KMS key.
func (s *officialSDK) ask(t *testing.T, request sdkRequest) sdkAnswer {
	t.Helper()
	request.Key = s.key
	answer := s.try(t, request)
	require.Empty(t, answer.Error)
	return answer
}

// suites are those with data keys of 256 bits.
var suites = []header.Suite{0x0078, 0x0178, 0x0378, 0x0478, 0x0578}

var interopContexts = []map[string]string{
	nil,
	{"purpose": "invoices"},
	{"ключ": "значение", "a": "", "zz": "1", "Z": "2", "é": "3", "\U0001F511": "4", "\uFF5E": "5"},
}

func TestPythonSDKBranchKeys(t *testing.T) {
	table, endpoint := newMotoTable(t)
	testInterop(t, startPython(t, endpoint), table, endpoint)
}

// startPython starts AWS's Encryption SDK for Python.
func startPython(t *testing.T, endpoint string) *officialSDK {
	t.Helper()
	python := os.Getenv("PIKOKMS_PYTHON")
	if python == "" {
		python = "python3"
		if exec.Command(python, "-c", "import aws_encryption_sdk, aws_cryptographic_material_providers").Run() != nil {
			t.Skip("skipped: python3 has no aws_cryptographic_material_providers (PIKOKMS_PYTHON names a Python that has it)")
		}
	}
	return startSDK(t, exec.Command(python, filepath.Join("testdata", "interop.py")), endpoint)
}

func TestJavaSDKBranchKeys(t *testing.T) {
	table, endpoint := newMotoTable(t)
	testInterop(t, startJava(t, endpoint), table, endpoint)
}

// startJava starts AWS's Encryption SDK for Java. It needs a folder of jars that PIKOKMS_JARS
// names: aws-encryption-sdk-java and aws-cryptographic-material-providers of Maven Central, with
// what they depend on.
func startJava(t *testing.T, endpoint string) *officialSDK {
	t.Helper()
	jars := os.Getenv("PIKOKMS_JARS")
	if jars == "" {
		t.Skip("skipped: PIKOKMS_JARS names no folder with the jars of AWS's Encryption SDK for Java")
	}
	sdk := startSDK(t, exec.Command("java", "-cp", filepath.Join(jars, "*"), filepath.Join("testdata", "Interop.java")), endpoint)
	// The SDK for Java encrypts no pair with an empty value.
	sdk.contexts = append(interopContexts[:2:2], maps.Clone(interopContexts[2]))
	delete(sdk.contexts[2], "a")
	return sdk
}

// testInterop checks messages in both directions, on one table, with branch keys that either side
// made and versioned.
func testInterop(t *testing.T, sdk *officialSDK, table branchkey.Table, endpoint string) {
	client := kms.New(kms.Options{
		Region: emulator.Region, BaseEndpoint: aws.String(endpoint), Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})
	newKey := func() string {
		made, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{})
		require.NoError(t, err)
		return *made.KeyMetadata.Arn
	}
	newStore := func(keyARN string, trusted ...string) *branchkey.Store {
		wrapper, err := kmswrap.New(t.Context(), awskms.Config{KeyID: keyARN, TrustedKeys: trusted, Client: client})
		require.NoError(t, err)
		store := branchkey.StoreOf(table, wrapper, "keys of the test")
		return store
	}
	sdk.table, sdk.logicalName, sdk.key = table.Name(), "keys of the test", newKey()
	store := newStore(sdk.key)

	// Either side takes the table that the other one made.
	sdk.ask(t, sdkRequest{Op: "create-table"})
	require.NoError(t, store.CreateTable(t.Context()))

	ownContext := map[string]string{"department": "billing", "näme": "wert"}
	ours, err := store.Create(t.Context(), "", nil)
	require.NoError(t, err)
	oursNamed, err := store.Create(t.Context(), "of ours, ключ", ownContext)
	require.NoError(t, err)
	theirs := sdk.ask(t, sdkRequest{Op: "create"}).ID
	theirsNamed := sdk.ask(t, sdkRequest{Op: "create", ID: "of theirs, ключ", Context: ownContext}).ID
	ids := []string{ours, oursNamed, theirs, theirsNamed}

	count := &counts{}
	old := make(map[string][][]byte) // messages by branch key
	for _, id := range ids {
		old[id] = sdk.matrix(t, store, id, suites, count)
	}
	// Each side makes a new version of each branch key, one after the other.
	for round := range 2 {
		for _, id := range ids {
			if round == 0 {
				_, err := store.CreateVersion(t.Context(), id)
				require.NoError(t, err)
			} else {
				sdk.ask(t, sdkRequest{Op: "version", ID: id})
			}
			require.NoError(t, store.Check(t.Context(), id))
			old[id] = append(old[id], sdk.matrix(t, store, id, suites[3:], count)...)
		}
	}
	for _, id := range ids {
		sdk.required(t, store, id, count)
		sdk.oldMessages(t, store, id, old[id], count)
		require.Len(t, sdk.ask(t, sdkRequest{Op: "beacon", ID: id}).Data, 32)
	}
	sdk.supplier(t, store, oursNamed, theirsNamed, count)

	// After a move, the SDK opens all messages under the new KMS key, with the old one gone.
	from := sdk.key
	sdk.key = newKey()
	moved := newStore(sdk.key, from)
	for _, id := range ids {
		require.NoError(t, moved.Move(t.Context(), id, nil))
		require.NoError(t, moved.Check(t.Context(), id))
	}
	_, err = client.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: aws.String(from[strings.LastIndex(from, "/")+1:])}) // moto takes no ARN here
	require.NoError(t, err)
	moved = newStore(sdk.key)
	for _, id := range ids {
		sdk.oldMessages(t, moved, id, old[id], count)
		require.Len(t, sdk.ask(t, sdkRequest{Op: "beacon", ID: id}).Data, 32)
		sdk.ask(t, sdkRequest{Op: "version", ID: id})
		_, err := moved.CreateVersion(t.Context(), id)
		require.NoError(t, err)
		sdk.matrix(t, moved, id, suites[3:], count)
		opened := sdk.try(t, sdkRequest{Op: "decrypt", ID: id, Suite: 0x0478, Data: old[id][0]}) // by discovery
		require.Empty(t, opened.Error)
	}
	t.Logf("%d messages of ours opened by the SDK, %d of the SDK's opened here", count.ours, count.theirs)
}

// counts are numbers of messages.
type counts struct{ ours, theirs int }

// matrix checks all suites and contexts, and returns messages that the SDK opens under suite
// 0x0478.
func (s *officialSDK) matrix(t *testing.T, store *branchkey.Store, id string, suites []header.Suite, count *counts) (kept [][]byte) {
	t.Helper()
	p := newProvider(t, store, branchkey.Config{BranchKeyID: id})
	for _, suite := range suites {
		for _, pairs := range s.contexts {
			plaintext := make([]byte, 300)
			_, _ = rand.Read(plaintext)
			written := s.ask(t, sdkRequest{Op: "encrypt", ID: id, Context: pairs, Suite: suite, FrameLength: 128, Data: plaintext}).Data
			s.readByUs(t, p, written, plaintext, pairs)
			count.theirs++
			if !suite.Commits() {
				continue
			}
			e := message.Encrypter{Keyring: p, FrameLength: 128, Suite: suite}
			stored, err := e.Encrypt(t.Context(), plaintext, pairs)
			require.NoError(t, err)
			s.readByThem(t, id, stored, plaintext, pairs)
			count.ours++
			if suite == 0x0478 {
				kept = append(kept, written, stored)
			}
		}
	}
	return kept
}

func (s *officialSDK) readByUs(t *testing.T, p provider.Keyring, stored, plaintext []byte, pairs map[string]string) {
	t.Helper()
	d := message.Decrypter{Keyrings: []provider.Unwrapper{p}, CommitmentPolicy: message.RequireEncryptAllowDecrypt}
	got, _, err := d.Decrypt(t.Context(), stored, pairs)
	require.NoError(t, err)
	require.Equal(t, plaintext, got)
}

func (s *officialSDK) readByThem(t *testing.T, id string, stored, plaintext []byte, pairs map[string]string) {
	t.Helper()
	opened := s.ask(t, sdkRequest{Op: "decrypt", ID: id, Suite: 0x0478, Data: stored})
	require.Equal(t, plaintext, opened.Data)
	for name, value := range pairs {
		require.Equal(t, value, opened.Context[name])
	}
}

// oldMessages checks that both sides open messages under all versions.
func (s *officialSDK) oldMessages(t *testing.T, store *branchkey.Store, id string, stored [][]byte, count *counts) {
	t.Helper()
	p := newProvider(t, store, branchkey.Config{BranchKeyID: id})
	for i, m := range stored {
		opened := s.ask(t, sdkRequest{Op: "decrypt", ID: id, Suite: 0x0478, Data: m})
		s.readByUs(t, p, m, opened.Data, nil)
		if i%2 == 0 { // they are in turn theirs and ours
			count.theirs++
		} else {
			count.ours++
		}
	}
}

// required checks pairs that are authenticated but not stored.
func (s *officialSDK) required(t *testing.T, store *branchkey.Store, id string, count *counts) {
	t.Helper()
	p := newProvider(t, store, branchkey.Config{BranchKeyID: id})
	pairs := map[string]string{"bucket": "invoices", "key": "7.pdf", "tenant": "42"}
	names := []string{"bucket", "key"}
	for _, suite := range []header.Suite{0x0478, 0x0578} {
		e := message.Encrypter{Keyring: p, Suite: suite, Required: names}
		stored, err := e.Encrypt(t.Context(), []byte("of ours"), pairs)
		require.NoError(t, err)
		request := sdkRequest{Op: "decrypt", ID: id, Suite: suite, Required: names, Context: pairs, Data: stored}
		require.Equal(t, "of ours", string(s.ask(t, request).Data))
		request.Key, request.Context = s.key, map[string]string{"bucket": "invoices", "key": "8.pdf", "tenant": "42"}
		require.NotEmpty(t, s.try(t, request).Error)
		count.ours++

		stored = s.ask(t, sdkRequest{Op: "encrypt", ID: id, Suite: suite, Required: names, Context: pairs, FrameLength: 4096, Data: []byte("of theirs")}).Data
		require.False(t, bytes.Contains(stored, []byte("7.pdf")))
		s.readByUs(t, p, stored, []byte("of theirs"), pairs)
		d := message.Decrypter{Keyrings: []provider.Unwrapper{p}}
		_, _, err = d.Decrypt(t.Context(), stored, request.Context)
		require.ErrorIs(t, err, provider.ErrDecryptionFailed)
		count.theirs++
	}
}

// supplier checks branch keys that the pair "tenant" picks.
func (s *officialSDK) supplier(t *testing.T, store *branchkey.Store, first, second string, count *counts) {
	t.Helper()
	p := newProvider(t, store, branchkey.Config{Supplier: branchkey.ByPair("tenant")})
	for i, id := range []string{first, second} {
		pairs := map[string]string{"tenant": id}
		plaintext := fmt.Appendf(nil, "tenant %d", i)
		stored, err := (&message.Encrypter{Keyring: p}).Encrypt(t.Context(), plaintext, pairs)
		require.NoError(t, err)
		require.Equal(t, plaintext, s.ask(t, sdkRequest{Op: "decrypt", Suite: 0x0478, Data: stored}).Data)
		count.ours++
		stored = s.ask(t, sdkRequest{Op: "encrypt", Suite: 0x0478, Context: pairs, FrameLength: 4096, Data: plaintext}).Data
		s.readByUs(t, p, stored, plaintext, pairs)
		count.theirs++
	}
}
