package branchkey_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/internal/kmswrap"
	"piko.sh/pikokms/internal/leftover"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/local"
)

// The process whose memory is read is this test again, with these in its environment.
const (
	memoryTable = "PIKOKMS_MEMORY_TABLE" // the path of a table
	memoryKMS   = "PIKOKMS_MEMORY_KMS"   // the endpoint of AWS KMS and two keys' ARNs, or the files of two local keys
)

// masterKeys returns what wraps branch keys, under the first of two keys, or under the second.
func masterKeys(t *testing.T, described string) (first, second branchkey.KMS) {
	t.Helper()
	named := strings.Fields(described)
	if len(named) == 2 {
		a, b := local.Config{KeyFile: named[0], Name: "a"}, local.Config{KeyFile: named[1], Name: "b"}
		first, err := branchkey.NewLocalKMS(a)
		require.NoError(t, err)
		second, err := branchkey.NewLocalKMS(b, a)
		require.NoError(t, err)
		return first, second
	}
	first, err := kmswrap.New(t.Context(), awskms.Config{KeyID: named[1], Endpoint: named[0]})
	require.NoError(t, err)
	second, err = kmswrap.New(t.Context(), awskms.Config{KeyID: named[2], TrustedKeys: named[1:2], Endpoint: named[0]})
	require.NoError(t, err)
	return first, second
}

func memoryStore(t *testing.T, keys branchkey.KMS) *branchkey.Store {
	t.Helper()
	store := branchkey.StoreOf(branchkey.NewFile(os.Getenv(memoryTable)), keys, "keys")
	return store
}

// phase is what the process says about itself before it waits.
type phase struct {
	Name     string
	IDs      []string // of branch keys
	Masked   [][]byte // data keys
	Messages [][]byte
}

// use does all that there is to do with branch keys.
func use(t *testing.T) {
	ctx := t.Context()
	first, second := masterKeys(t, os.Getenv(memoryKMS))
	store, moving := memoryStore(t, first), memoryStore(t, second)
	require.NoError(t, store.CreateTable(ctx))
	var ids []string
	for range 8 {
		ids = append(ids, create(t, store))
	}
	p, err := branchkey.ProviderOf(ctx, moving, branchkey.Config{Supplier: branchkey.ByPair("tenant"), TTL: time.Hour, Entries: 2})
	require.NoError(t, err)
	keys := &leftover.Masking{EncryptionProvider: p}
	var messages [][]byte
	both := func(id string) {
		pairs := map[string]string{"tenant": id}
		sealed := seal(t, keys, "text", pairs)
		messages = append(messages, sealed)
		_, err := open(ctx, keys, sealed)
		require.NoError(t, err)
		text, err := envelope.Seal(ctx, keys, "text", pairs)
		require.NoError(t, err)
		_, err = envelope.Open(ctx, keys, text.Ciphertext, pairs)
		require.NoError(t, err)
	}
	both(ids[0])
	_, err = store.CreateVersion(ctx, ids[0])
	require.NoError(t, err)
	for _, id := range ids {
		both(id)
	}
	both(ids[0]) // under its new version
	_, err = open(ctx, keys, messages[0])
	require.NoError(t, err)
	changed := bytes.Replace(messages[0], []byte(ids[0]), []byte(ids[1]), 2)
	_, err = open(ctx, keys, changed)
	require.Error(t, err)
	require.NoError(t, moving.Move(ctx, ids[1], nil))
	require.NoError(t, moving.Check(ctx, ids[1]))
	both(ids[1])

	// This one's branch key is in the cache for a moment only.
	brief, err := branchkey.ProviderOf(ctx, moving, branchkey.Config{BranchKeyID: ids[2], TTL: 100 * time.Millisecond})
	require.NoError(t, err)
	briefly := &leftover.Masking{EncryptionProvider: brief}
	messages = append(messages, seal(t, briefly, "text", nil))
	require.NoError(t, brief.HealthCheck(ctx))

	both(ids[6])
	both(ids[7])
	tell := func(name string) {
		leftover.Tell(t, phase{name, ids, slices.Concat(keys.Masked(), briefly.Masked()), messages})
	}
	tell("cached") // the branch keys of the last two, the others are evicted
	require.NoError(t, p.Close())
	require.NoError(t, brief.Close())
	for _, keys := range []branchkey.KMS{first, second} {
		if open, ok := keys.(io.Closer); ok {
			require.NoError(t, open.Close())
		}
	}
	tell("closed")
}

// TestNoKeyStaysInMemory reads the whole memory of a process that has made branch keys, made
// versions of them, moved them, and encrypted and decrypted under them. The process never has
// beacon keys in the clear under AWS KMS. What is left in freed memory is what Go's own packages
// keep: branch keys in the form that crypto/hmac has, wrapping keys that crypto/aes has expanded,
// and the last answers of KMS in the buffers of net/http. Built with GOEXPERIMENT=runtimesecret, it
// is only the last of these.
func TestNoKeyStaysInMemory(t *testing.T) {
	if os.Getenv(memoryTable) != "" {
		use(t)
		return
	}
	if race.Enabled {
		t.Skip("the race detector keeps memory")
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Run("AWS KMS", func(t *testing.T) {
		server := kmstest.NewServer(t)
		keys := []string{server.URL, server.CreateKey(kmstest.Key{}).ARN, server.CreateKey(kmstest.Key{}).ARN}
		observe(t, strings.Join(keys, " "), leftover.Secrets{})
	})
	t.Run("local keys", func(t *testing.T) {
		secrets := make(leftover.Secrets)
		files := []string{filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")}
		for i, file := range files {
			require.NoError(t, local.Generate(file))
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			secrets[fmt.Sprint("local key as text ", i)] = bytes.TrimSpace(text)
			secrets[fmt.Sprint("local key ", i)], err = base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
			require.NoError(t, err)
		}
		observe(t, strings.Join(files, " "), secrets)
	})
}

func observe(t *testing.T, kms string, secrets leftover.Secrets) {
	t.Helper()
	t.Setenv(memoryKMS, kms)
	path := filepath.Join(t.TempDir(), "keys.db")
	process := leftover.Start(t, "TestNoKeyStaysInMemory", memoryTable+"="+path)
	var p phase
	process.Next(t, &p)
	_, keys := masterKeys(t, kms)
	numbers := make(map[string][]string) // of the keys by branch key ID
	wrapping := make(map[string][]byte)  // branch keys by version
	for _, id := range p.IDs {
		for item, err := range branchkey.NewFile(path).All(t.Context(), id) {
			require.NoError(t, err)
			kind := item.Attributes["type"]
			if kind == "branch:ACTIVE" {
				continue // a copy of the version
			}
			key := unwrapItem(t, keys, item)
			number := fmt.Sprint(len(wrapping))
			name := "beacon key"
			if version, ok := strings.CutPrefix(kind, "branch:version:"); ok {
				name = "branch key"
				wrapping[version] = key
				numbers[id] = append(numbers[id], number)
			}
			secrets[name+" "+number] = key
			secrets[name+" as text "+number] = []byte(base64.StdEncoding.EncodeToString(key)[:40])
			maps.Copy(secrets, hmacForms(t, name, number, key))
		}
	}
	require.Len(t, wrapping, len(p.IDs)+1)
	for i, sealed := range p.Messages {
		secrets[fmt.Sprint("wrapping key ", i)] = wrappingKey(t, sealed, wrapping)
	}
	for i, masked := range p.Masked {
		secrets[fmt.Sprint("data key ", i)] = leftover.Mask(masked)
	}

	cached := make(map[string]bool) // by number
	for _, id := range p.IDs[6:] {
		for _, number := range numbers[id] {
			cached[number] = true
		}
	}
	require.Len(t, cached, 2)
	found := process.Search(t, secrets)
	evicted := func() (left []string) {
		for _, all := range numbers {
			for _, number := range all {
				if !cached[number] && len(found["branch key "+number]) > 0 {
					left = append(left, number)
				}
			}
		}
		return left
	}
	// The TTL of one may pass later.
	for deadline := time.Now().Add(time.Minute); len(evicted()) > 0 && time.Now().Before(deadline); {
		found = process.Search(t, secrets)
	}
	require.Empty(t, evicted(), "branch keys that are evicted")
	found.Counts(t, p.Name)
	for number := range cached {
		require.NotEmpty(t, found["branch key "+number], "the search finds what is there")
		for _, at := range found["branch key "+number] {
			require.False(t, at.InCoreDump(), "a branch key is where a core dump has it: %s", at.Area)
		}
	}
	process.GoOn(t)
	process.Next(t, &p)
	found = process.Search(t, secrets)
	for kind, c := range found.Counts(t, p.Name) {
		switch {
		case kind == "branch key as text": // in the buffers of net/http, until the next answer
			require.Less(t, c.Alone, 5)
			continue
		case strings.HasSuffix(kind, "HMAC key"), strings.HasSuffix(kind, "state of HMAC"):
		default:
			require.Zero(t, c.Alone, "copies of %s: %v", kind, found)
		}
		if strings.Contains(runtime.Version(), "runtimesecret") {
			require.Zero(t, c.Alone+c.Expanded, "copies of %s that runtime/secret should have erased", kind)
		}
	}
}

// unwrapItem has the key of an item unwrapped.
func unwrapItem(t *testing.T, keys branchkey.KMS, item branchkey.Item) []byte {
	t.Helper()
	pairs := maps.Clone(item.Attributes)
	pairs["tablename"] = "keys"
	unwrapped, err := keys.Decrypt(t.Context(), pairs["kms-arn"], item.Enc, pairs)
	require.NoError(t, err)
	var key []byte
	require.NoError(t, unwrapped.WithAccess(func(plain []byte) error {
		key = bytes.Clone(plain)
		return nil
	}))
	require.NoError(t, unwrapped.Close())
	return key
}

// hmacForms returns a key in the forms that crypto/hmac makes of it, and the states of SHA-256 that
// are as good as the key: those after the blocks that it begins with.
func hmacForms(t *testing.T, name, number string, key []byte) leftover.Secrets {
	t.Helper()
	inner, outer := leftover.HMACKeys(key)
	forms := leftover.Secrets{name + " as inner HMAC key " + number: inner, name + " as outer HMAC key " + number: outer}
	for side, padded := range map[string][]byte{"inner": append(inner, bytes.Repeat([]byte{0x36}, 32)...), "outer": append(outer, bytes.Repeat([]byte{0x5c}, 32)...)} {
		hash := sha256.New()
		hash.Write(padded)
		state, err := hash.(encoding.BinaryMarshaler).MarshalBinary()
		require.NoError(t, err)
		var words []byte // as they are in memory
		for at := 4; at < 4+sha256.Size; at += 4 {
			words = binary.NativeEndian.AppendUint32(words, binary.BigEndian.Uint32(state[at:]))
		}
		forms[name+" as "+side+" state of HMAC "+number] = words
	}
	return forms
}

// wrappingKey returns the key that wraps a message's data key (specification:
// framework/aws-kms/aws-kms-hierarchical-keyring.md, "Branch Key Wrapping").
func wrappingKey(t *testing.T, sealed []byte, versions map[string][]byte) []byte {
	t.Helper()
	h, _, err := header.Parse(sealed, header.Limits{})
	require.NoError(t, err)
	ciphertext := h.EncryptedDataKeys[0].Ciphertext
	branchKey := versions[versionOf(ciphertext)]
	require.NotNil(t, branchKey)
	mac := hmac.New(sha256.New, branchKey)
	mac.Write([]byte("\x00\x00\x00\x01aws-kms-hierarchy\x00"))
	mac.Write(ciphertext[:16])
	mac.Write([]byte{0, 0, 1, 0})
	return mac.Sum(nil)
}
