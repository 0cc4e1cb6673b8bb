package s3ec_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/s3ec"
)

// vectors are objects that AWS's clients wrote: version 1 and 2 of that for Java (aws-java-sdk-s3
// 1.12.797, "java1" and "java2", in the modes EncryptionOnly and AuthenticatedEncryption), that for
// Java 4.0.1 and that for Python 4.0.0. Those with "instr" in their name have instruction files.
// The keys are for these vectors alone.
type vectors struct {
	AES     string    `json:"aes"`
	RSA     string    `json:"rsa"`
	Objects []*vector `json:"objects"`
}

type vector struct {
	Name        string            `json:"name"`
	Metadata    map[string]string `json:"metadata"`
	Instruction string            `json:"instruction"`
	Content     []byte            `json:"content"`
	DataKey     []byte            `json:"data_key"` // that AWS KMS unwrapped
}

func readVectors(t testing.TB) *vectors {
	t.Helper()
	text, err := os.ReadFile("testdata/vectors.json")
	require.NoError(t, err)
	v := new(vectors)
	require.NoError(t, json.Unmarshal(text, v))
	require.Len(t, v.Objects, 64)
	return v
}

// plaintext returns what was encrypted, whose size ends the name.
func (v *vector) plaintext(t testing.TB) []byte {
	t.Helper()
	size, err := strconv.Atoi(v.Name[strings.LastIndex(v.Name, "-")+1:])
	require.NoError(t, err)
	plain := make([]byte, size)
	for i := range plain {
		plain[i] = byte(i*31 + size + i>>8)
	}
	return plain
}

func (v *vector) isAuthenticated() bool { return !strings.Contains(v.Name, "-eo") }

// all returns the metadata and those of the instruction file.
func (v *vector) all(t testing.TB) map[string]string {
	t.Helper()
	all := maps.Clone(v.Metadata)
	if v.Instruction != "" {
		var beside map[string]string
		require.NoError(t, json.Unmarshal([]byte(v.Instruction), &beside))
		maps.Copy(all, beside)
	}
	return all
}

// kms unwraps the data keys of vectors as AWS KMS did.
type kms struct {
	provider.Unwrapper
	keys map[string][]byte // by ciphertext and encryption context
}

func nameOf(ciphertext []byte, pairs map[string]string) string {
	text, _ := json.Marshal(pairs) // in the order of their names
	return string(ciphertext) + string(text)
}

func (k kms) UnwrapS3EC(_ context.Context, wrapped *provider.S3ECDataKey) (*provider.SecureBytes, error) {
	if !strings.HasPrefix(wrapped.Algorithm, "kms") {
		return nil, provider.ErrUntrustedKey
	}
	key := k.keys[nameOf(wrapped.Ciphertext, wrapped.Context)]
	if key == nil {
		return nil, provider.ErrDecryptionFailed
	}
	return provider.NewSecureBytes(bytes.Clone(key))
}

// keyrings returns the keys of the vectors.
func (v *vectors) keyrings(t testing.TB) []provider.Unwrapper {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(v.AES)
	require.NoError(t, err)
	aes, err := local.NewProvider(local.Config{Key: raw})
	require.NoError(t, err)
	rsa, err := local.NewProvider(local.Config{Key: []byte(v.RSA)})
	require.NoError(t, err)
	service := kms{keys: make(map[string][]byte)}
	for _, o := range v.Objects {
		if o.DataKey == nil {
			continue
		}
		all := o.all(t)
		text, pairs := all["x-amz-key-v2"], all["x-amz-matdesc"]
		if text == "" {
			text, pairs = all["x-amz-3"], all["x-amz-t"]
		}
		ciphertext, err := base64.StdEncoding.DecodeString(text)
		require.NoError(t, err)
		var encryptionContext map[string]string
		require.NoError(t, json.Unmarshal([]byte(pairs), &encryptionContext))
		service.keys[nameOf(ciphertext, encryptionContext)] = o.DataKey
	}
	return []provider.Unwrapper{service, aes, rsa}
}

// find returns the header of a vector that has this size in its storage.
func (v *vector) find(size int64) (*s3ec.Header, error) {
	return find(v.Metadata, []byte(v.Instruction), size)
}

func find(metadata map[string]string, instruction []byte, size int64) (*s3ec.Header, error) {
	return s3ec.Find(metadata, true, "object", s3ec.InstructionSuffix, size, func(key string) (io.ReadCloser, error) {
		if key != "object.instruction" || len(instruction) == 0 {
			return nil, fs.ErrNotExist
		}
		return io.NopCloser(bytes.NewReader(instruction)), nil
	})
}

// read returns the plaintext of a vector.
func read(c s3ec.Config, v *vector, keyrings []provider.Unwrapper, stated map[string]string) ([]byte, *s3ec.Header, error) {
	h, err := v.find(int64(len(v.Content)))
	if err != nil {
		return nil, nil, err
	}
	if h == nil {
		return nil, nil, errNone
	}
	content, err := s3ec.Opener(c)(context.Background(), h, bytes.NewReader(v.Content), keyrings, stated)
	if err != nil {
		return nil, h, err
	}
	defer content.Close()
	plain, err := io.ReadAll(content)
	return plain, h, err
}

// errNone means that what was changed looks as if the client had not written it. A host reads it as
// any other object.
var errNone = errors.New("it is no object of the client")

func TestVectors(t *testing.T) {
	all := readVectors(t)
	keyrings := all.keyrings(t)
	for _, v := range all.Objects {
		t.Run(v.Name, func(t *testing.T) {
			plain, h, err := read(s3ec.Config{}, v, keyrings, nil)
			if !v.isAuthenticated() {
				require.ErrorIs(t, err, s3ec.ErrUnauthenticated)
				require.EqualValues(t, -1, h.PlaintextSize())
				plain, _, err = read(s3ec.Config{AllowUnauthenticated: true}, v, keyrings, nil)
			} else {
				require.EqualValues(t, len(v.plaintext(t)), h.PlaintextSize())
			}
			require.NoError(t, err)
			require.Equal(t, v.plaintext(t), append([]byte{}, plain...))
			require.Equal(t, strings.Contains(v.Name, "v3"), h.Format == 3)
			h, err = find(s3ec.WithoutMetadata(v.Metadata), nil, int64(len(v.Content)))
			require.NoError(t, err)
			require.Nil(t, h)
			_, _, err = read(s3ec.Config{AllowUnauthenticated: true}, v, nil, nil)
			require.ErrorIs(t, err, provider.ErrUntrustedKey)
		})
	}
}

// Pairs are required of what AWS KMS authenticated, and of nothing else.
func TestStatedPairs(t *testing.T) {
	all := readVectors(t)
	keyrings := all.keyrings(t)
	for _, v := range all.Objects {
		c := s3ec.Config{AllowUnauthenticated: true}
		_, _, err := read(c, v, keyrings, map[string]string{"tenant": "42"})
		if strings.HasPrefix(v.Name, "java4-kms") || strings.HasPrefix(v.Name, "py4") {
			require.NoError(t, err, v.Name)
		} else {
			require.ErrorIs(t, err, provider.ErrContextMismatch, v.Name)
		}
		for _, pair := range []map[string]string{{"tenant": "43"}, {"aws:x-amz-cek-alg": "115"}, {"purpose": "test"}} {
			_, _, err := read(c, v, keyrings, pair)
			require.ErrorIs(t, err, provider.ErrContextMismatch, v.Name)
		}
	}
}

// No change of an object goes unnoticed: of a byte of its content, of a character of its metadata
// or of its instruction file, a field that is cut, left out, or another object's, and a message of
// format 3 that is made to look as of format 2. Material descriptions of raw keys are not
// authenticated, and mean nothing here; nor do the lengths that the first version stored.
func TestChangedObjects(t *testing.T) {
	race.SkipShort(t)
	all := readVectors(t)
	keyrings := all.keyrings(t)
	random := rand.New(rand.NewPCG(1, 2))
	var objects []*vector
	for _, v := range all.Objects {
		if v.isAuthenticated() {
			objects = append(objects, v)
		}
	}
	tried, accepted := make(map[string]int), 0
	try := func(kind string, v, changed *vector) {
		if maps.Equal(canonical(v.all(t)), canonical(changed.all(t))) && bytes.Equal(v.Content, changed.Content) {
			return
		}
		tried[kind]++
		if plain, _, err := read(s3ec.Config{}, changed, keyrings, nil); err == nil {
			accepted++
			t.Errorf("%s of %s is accepted, with %d bytes: %v %s", kind, v.Name, len(plain), changed.Metadata, changed.Instruction)
		}
	}
	isMeaningless := func(v *vector, name string) bool {
		return name == "x-amz-unencrypted-content-length" || (name == "x-amz-matdesc" || name == "x-amz-m") && !strings.Contains(v.Name, "kms") ||
			!strings.HasPrefix(name, "x-amz-") || name == "x-amz-crypto-instr-file"
	}
	sum := func() (n int) {
		for _, many := range tried {
			n += many
		}
		return n
	}
	for round := 0; sum() < 10_000 && accepted == 0; round++ {
		for _, v := range objects {
			content := bytes.Clone(v.Content)
			content[random.IntN(len(content))] ^= byte(1 + random.IntN(255))
			try("content, a byte", v, &vector{v.Name, v.Metadata, v.Instruction, content, nil})
			try("content, cut", v, &vector{v.Name, v.Metadata, v.Instruction, v.Content[:random.IntN(len(v.Content))], nil})
			try("content, longer", v, &vector{v.Name, v.Metadata, v.Instruction, append(bytes.Clone(v.Content), byte(random.IntN(256))), nil})
			other := objects[random.IntN(len(objects))]
			if other != v {
				try("content, another's", v, &vector{v.Name, v.Metadata, v.Instruction, other.Content, nil})
			}
			inMetadata := v.Metadata
			fields := slices.Sorted(maps.Keys(v.all(t)))
			name := fields[random.IntN(len(fields))]
			if isMeaningless(v, name) {
				continue
			}
			with := func(change func(fields map[string]string)) *vector {
				changed := &vector{Name: v.Name, Metadata: maps.Clone(inMetadata), Instruction: v.Instruction, Content: v.Content}
				if _, ok := inMetadata[name]; ok {
					change(changed.Metadata)
					return changed
				}
				var beside map[string]string
				require.NoError(t, json.Unmarshal([]byte(v.Instruction), &beside))
				change(beside)
				text, err := json.Marshal(beside)
				require.NoError(t, err)
				changed.Instruction = string(text)
				return changed
			}
			value := v.all(t)[name]
			at := random.IntN(len(value))
			try("field, a character", v, with(func(fields map[string]string) {
				const characters = "ABCabc0123456789+/={}\":, \n"
				if c := characters[random.IntN(len(characters))]; value[at] != c {
					fields[name] = value[:at] + string(c) + value[at+1:]
				}
			}))
			if strings.HasPrefix(value, "{") && json.Valid([]byte(value[:at]+" "+value[at:])) {
				at = 0 // a description with a space more is the same one
			}
			try("field, cut", v, with(func(fields map[string]string) { fields[name] = value[:at] }))
			try("field, left out", v, with(func(fields map[string]string) { delete(fields, name) }))
			if foreign, ok := other.all(t)[name]; ok && foreign != value {
				try("field, another's", v, with(func(fields map[string]string) { fields[name] = foreign }))
			}
			try("field, of another format", v, with(func(fields map[string]string) {
				more := []string{"x-amz-key", "x-amz-key-v2", "x-amz-3", "x-amz-c", "x-amz-d", "x-amz-i", "x-amz-w"}[random.IntN(7)]
				if _, ok := v.all(t)[more]; !ok {
					fields[more] = value
				}
			}))
			if strings.Contains(v.Name, "v3") {
				try("downgraded", v, downgraded(v, v.all(t), random))
			}
		}
	}
	t.Logf("%d changed objects, %d accepted: %v", sum(), accepted, tried)
	require.Zero(t, accepted)
}

// canonical returns fields whose JSON objects have one form.
func canonical(fields map[string]string) map[string]string {
	for name, value := range fields {
		var pairs map[string]string
		if json.Unmarshal([]byte(value), &pairs) == nil {
			fields[name] = fmt.Sprint(pairs)
		}
	}
	return fields
}

// downgraded returns an object of format 3 with the metadata of format 2.
func downgraded(v *vector, all map[string]string, random *rand.Rand) *vector {
	wrapping := map[string]string{"02": "AES/GCM", "12": "kms+context", "22": "RSA-OAEP-SHA1"}[all["x-amz-w"]]
	described := all["x-amz-m"] + all["x-amz-t"]
	if random.IntN(2) == 0 {
		described = strings.ReplaceAll(described, "115", "AES/GCM/NoPadding")
	}
	if described == "" {
		described = "{}"
	}
	switch random.IntN(4) {
	case 0:
		wrapping, described = "kms", `{"kms_cmk_id":"k"}`
	case 1:
		wrapping = "AESWrap"
	}
	iv := []byte(strings.Repeat("\x01", 12))
	if random.IntN(2) == 0 {
		iv[random.IntN(12)] = byte(random.IntN(256))
	}
	metadata := map[string]string{
		"x-amz-key-v2": all["x-amz-3"], "x-amz-iv": base64.StdEncoding.EncodeToString(iv), "x-amz-matdesc": described,
		"x-amz-wrap-alg": wrapping, "x-amz-cek-alg": "AES/GCM/NoPadding", "x-amz-tag-len": "128",
	}
	if random.IntN(4) == 0 {
		metadata["x-amz-cek-alg"] = "AES/CBC/PKCS5Padding"
		delete(metadata, "x-amz-tag-len")
	}
	return &vector{v.Name, metadata, "", v.Content, nil}
}

// All objects together have no more memory than they were given.
func TestMemory(t *testing.T) {
	all := readVectors(t)
	keyrings := all.keyrings(t)
	var v *vector
	for _, o := range all.Objects {
		if o.Name == "java4-aes-v3-16" {
			v = o
		}
	}
	_, _, err := read(s3ec.Config{MaxMemory: 31}, v, keyrings, nil)
	require.ErrorIs(t, err, s3ec.ErrMemory)

	opener := s3ec.Opener(s3ec.Config{MaxMemory: 63})
	open := func(ctx context.Context) (*s3ec.Content, error) {
		h, err := v.find(int64(len(v.Content)))
		require.NoError(t, err)
		return opener(ctx, h, bytes.NewReader(v.Content), keyrings, nil)
	}
	first, err := open(t.Context())
	require.NoError(t, err)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = open(ended)
	require.ErrorIs(t, err, context.Canceled, "there is room for one")
	waiting := make(chan error)
	go func() {
		second, err := open(context.Background())
		waiting <- errors.Join(err, second.Close())
	}()
	require.NoError(t, first.Close())
	require.NoError(t, <-waiting)
	for range 3 { // what is dropped gives its memory back
		_, err := open(t.Context())
		require.NoError(t, err)
	}
}

// Content that gave its memory back is not mistaken for content that is empty, as a client might that
// seeks back to send it again.
func TestContentAfterItsEnd(t *testing.T) {
	all := readVectors(t)
	keyrings := all.keyrings(t)
	for _, v := range all.Objects {
		want := v.plaintext(t)
		for _, close := range []bool{false, true} {
			h, err := v.find(int64(len(v.Content)))
			require.NoError(t, err)
			content, err := s3ec.Opener(s3ec.Config{AllowUnauthenticated: true})(t.Context(), h, bytes.NewReader(v.Content), keyrings, nil)
			require.NoError(t, err)
			require.EqualValues(t, len(want), content.Size())
			read := len(want) / 2
			if close {
				_, err = io.ReadFull(content, make([]byte, read))
				require.NoError(t, err)
				require.NoError(t, content.Close())
				require.NoError(t, content.Close(), "a second Close does nothing")
			} else {
				got, err := io.ReadAll(content)
				require.NoError(t, err)
				require.Equal(t, want, got)
				_, err = content.Read(make([]byte, 1))
				require.Equal(t, io.EOF, err)
				read = len(want)
			}
			require.EqualValues(t, len(want), content.Size())
			at, err := content.Seek(0, io.SeekCurrent)
			require.NoError(t, err)
			require.EqualValues(t, read, at)
			if len(want) == 0 {
				continue
			}
			_, err = content.Seek(0, io.SeekStart)
			require.NoError(t, err)
			_, err = content.Read(make([]byte, 1))
			require.ErrorIs(t, err, provider.ErrClosed, v.Name)
			_, err = content.ReadAt(make([]byte, 1), 0)
			require.ErrorIs(t, err, provider.ErrClosed, v.Name)
		}
	}
}

func FuzzFind(f *testing.F) {
	for _, v := range readVectors(f).Objects {
		text, err := json.Marshal(v.Metadata)
		require.NoError(f, err)
		f.Add(text, []byte(v.Instruction))
	}
	f.Fuzz(func(t *testing.T, metadata, instruction []byte) {
		var fields map[string]string
		if json.Unmarshal(metadata, &fields) != nil {
			return
		}
		h, err := find(fields, instruction, 100)
		if err != nil {
			if !errors.Is(err, s3ec.ErrInstruction) {
				require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
			}
			require.ErrorIs(t, err, s3ec.ErrS3EncryptionClient)
			return
		}
		if h == nil {
			return
		}
		require.Contains(t, []int{1, 2, 3}, h.Format)
		require.NotEmpty(t, h.Wrapping)
		_, err = s3ec.Opener(s3ec.Config{AllowUnauthenticated: true})(t.Context(), h, bytes.NewReader(nil), nil, nil)
		require.Error(t, err)
	})
}

func ExampleFind() {
	metadata := map[string]string{
		"x-amz-c": "115", "x-amz-w": "02", "x-amz-3": base64.StdEncoding.EncodeToString(make([]byte, 60)),
		"x-amz-i": base64.StdEncoding.EncodeToString(make([]byte, 28)), "x-amz-d": base64.StdEncoding.EncodeToString(make([]byte, 28)),
	}
	// The metadata have all that it takes, so no instruction file is opened.
	h, err := s3ec.Find(metadata, false, "object", s3ec.InstructionSuffix, 116, nil)
	if err != nil {
		panic(err)
	}
	fmt.Println(h.Format, h.Wrapping, h.PlaintextSize())
	// Output: 3 AES/GCM 100
}

// No header has another size than an object can have, whatever storage has stated it.
func TestSizesThatNoObjectHas(t *testing.T) {
	all := readVectors(t)
	for _, v := range all.Objects {
		for _, size := range []int64{-16, -1, 0, 15} {
			h, err := v.find(size)
			require.NoError(t, err)
			_, err = s3ec.Opener(s3ec.Config{AllowUnauthenticated: true})(t.Context(), h, bytes.NewReader(v.Content), all.keyrings(t), nil)
			require.ErrorIs(t, err, provider.ErrInvalidCiphertext, v.Name)
		}
	}
}

// A large object has its turn, though smaller ones that came later would fit all the time.
func TestMemoryIsGivenInTurn(t *testing.T) {
	all := readVectors(t)
	keyrings := all.keyrings(t)
	synctest.Test(t, func(t *testing.T) {
		opener := s3ec.Opener(s3ec.Config{MaxMemory: 40})
		var mu sync.Mutex
		var order []string
		open := func(name string) *s3ec.Content {
			for _, v := range all.Objects {
				if v.Name == name {
					h, err := v.find(int64(len(v.Content)))
					require.NoError(t, err)
					content, err := opener(context.Background(), h, bytes.NewReader(v.Content), keyrings, nil)
					require.NoError(t, err)
					mu.Lock()
					defer mu.Unlock()
					order = append(order, name)
					return content
				}
			}
			panic(name)
		}
		const small, large = "java4-aes-v3-0", "java4-aes-v3-16" // of 16 and 32 bytes
		held := open(small)
		go func() { _ = open(large).Close() }()
		synctest.Wait()
		go func() { _ = open(small).Close() }()
		time.Sleep(10 * time.Second)
		require.Len(t, order, 1)
		require.NoError(t, held.Close())
		synctest.Wait()
		require.Equal(t, []string{small, large, small}, order)
	})
}
