package verbs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/provider/local"
)

// clientVectors are objects that AWS's own clients wrote (s3ec/testdata).
type clientVectors struct {
	AES     string `json:"aes"`
	RSA     string `json:"rsa"`
	Objects []struct {
		Name        string            `json:"name"`
		Metadata    map[string]string `json:"metadata"`
		Instruction string            `json:"instruction"`
		Content     []byte            `json:"content"`
	} `json:"objects"`
}

// TestMovesS3EncryptionClient reads and moves what AWS's S3 Encryption Client wrote under AES and
// RSA keys, beside plain objects and encrypted ones.
func TestMovesS3EncryptionClient(t *testing.T) {
	race.SkipShort(t)
	b := newMotoBucket(t)
	text, err := os.ReadFile(filepath.Join(repository, "s3ec", "testdata", "vectors.json"))
	require.NoError(t, err)
	var v clientVectors
	require.NoError(t, json.Unmarshal(text, &v))
	dir := t.TempDir()
	aes, rsa, to := filepath.Join(dir, "aes"), filepath.Join(dir, "rsa"), filepath.Join(dir, "to")
	require.NoError(t, os.WriteFile(aes, []byte(v.AES), 0o600))
	require.NoError(t, os.WriteFile(rsa, []byte(v.RSA), 0o600))
	require.NoError(t, local.Generate(to))
	plaintextOf := func(name string) string {
		size, err := strconv.Atoi(name[strings.LastIndex(name, "-")+1:])
		require.NoError(t, err)
		plain := make([]byte, size)
		for i := range plain {
			plain[i] = byte(i*31 + size + i>>8)
		}
		return string(plain)
	}
	instructions := make(map[string]string)
	authenticated, legacy := 0, 0
	for _, o := range v.Objects {
		if strings.Contains(o.Name, "kms") {
			continue
		}
		if strings.Contains(o.Name, "-eo") {
			legacy++
		} else {
			authenticated++
		}
		b.put("in/"+o.Name, string(o.Content), func(in *s3.PutObjectInput) {
			in.Metadata = map[string]string{"owner": "me"}
			for name, value := range o.Metadata {
				in.Metadata[name] = value
			}
			in.Tagging, in.ContentType, in.StorageClass = aws.String("a=b"), aws.String("text/x"), s3types.StorageClassStandardIa
		})
		if o.Instruction != "" {
			instructions[o.Name] = o.Instruction
			b.put("in/"+o.Name+".instruction", o.Instruction)
		}
	}
	b.put("in/plain", "plain")
	old := []string{"-k", "local:" + aes, "-k", "local:" + rsa}
	run := func(ok bool, verb string, more ...string) (string, string) {
		return b.run(ok, append(append([]string{verb}, old...), more...)...)
	}

	listed, _ := b.run(true, "ls", b.url("in/"))
	require.Equal(t, authenticated+legacy+len(instructions), strings.Count(listed, " s3-client "))
	inspected, _ := b.run(true, "inspect", "--json", b.url("in/"))
	require.Contains(t, inspected, `"wrapping_algorithm":"RSA-OAEP-SHA1","key_commitment":true,"authenticated":true`)
	require.Contains(t, inspected, `"instruction":"in/java1-aes-eo-instr-0.instruction"`)
	_, said := run(false, "verify", "--plain", "skip", b.url("in/"))
	require.Contains(t, said, "verified "+strconv.Itoa(authenticated)+" objects of")
	require.Contains(t, said, strconv.Itoa(legacy)+" failed")
	require.Contains(t, said, "not authenticated: who can write to the bucket can change it; --allow-unauthenticated-s3-client reads it")
	_, said = run(false, "verify", "--s3-client-memory", "20", b.url("in/java4-aes-v3-16"))
	require.Contains(t, said, "--s3-client-memory sets it")
	whole, _ := run(true, "cat", b.url("in/java4-rsa-v3-16"))
	require.Equal(t, plaintextOf("java4-rsa-v3-16"), whole)
	part, _ := run(true, "cat", "--range", "3-5", b.url("in/java4-aes-v3-instr-16"))
	require.Equal(t, plaintextOf("java4-aes-v3-instr-16")[3:6], part)
	out := filepath.Join(dir, "out")
	run(true, "decrypt", "--allow-unauthenticated-s3-client", "-o", out, "--exclude", "plain", b.url("in/"))
	for _, o := range v.Objects {
		if !strings.Contains(o.Name, "kms") {
			content, err := os.ReadFile(filepath.Join(out, o.Name))
			require.NoError(t, err)
			require.Equal(t, plaintextOf(o.Name), string(content), o.Name)
		}
	}

	// What is moved has its other properties, and nothing of the client's.
	_, said = run(false, "rewrap", "--to", "local:"+to, "--plain", "skip", "--in-place", b.url("in/"))
	require.Contains(t, said, "rewrapped "+strconv.Itoa(authenticated)+" objects of")
	require.Contains(t, said, strconv.Itoa(legacy)+" failed")
	for name, text := range instructions { // killed after the object was replaced
		if !strings.Contains(name, "-eo") {
			b.put("in/"+name+".instruction", text)
		}
	}
	_, said = run(true, "rewrap", "--to", "local:"+to, "--plain", "skip", "--in-place", "--allow-unauthenticated-s3-client", b.url("in/"))
	require.Contains(t, said, "rewrapped "+strconv.Itoa(legacy)+" objects of")
	require.Contains(t, said, "its object was moved and is verified, so it was removed")
	run(true, "rewrap", "--to", "local:"+to, "--plain", "skip", "--in-place", b.url("in/")) // nothing is left to do
	listed, _ = b.run(true, "ls", b.url("in/"))
	require.Equal(t, authenticated+legacy, strings.Count(listed, " encrypted "), listed)
	require.NotContains(t, listed, ".instruction")
	b.run(true, "verify", "-k", "local:"+to, "--plain", "skip", b.url("in/"))
	for _, o := range v.Objects {
		if strings.Contains(o.Name, "kms") {
			continue
		}
		content, _ := b.run(true, "cat", "-k", "local:"+to, b.url("in/"+o.Name))
		require.Equal(t, plaintextOf(o.Name), content, o.Name)
		head, err := b.client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b.name, Key: aws.String("in/" + o.Name)})
		require.NoError(t, err)
		require.Equal(t, "text/x", *head.ContentType)
		require.Equal(t, s3types.StorageClassStandardIa, head.StorageClass)
		require.Equal(t, "me", head.Metadata["owner"])
		for name := range head.Metadata {
			require.False(t, strings.HasPrefix(name, "x-amz-"), name)
		}
		tags, err := b.client.GetObjectTagging(t.Context(), &s3.GetObjectTaggingInput{Bucket: &b.name, Key: aws.String("in/" + o.Name)})
		require.NoError(t, err)
		require.Len(t, tags.TagSet, 1)
	}
	content, _ := b.get("in/plain")
	require.Equal(t, "plain", content)
}

// TestAnotherInstructionSuffix works on a bucket with instruction files of two suffixes. The client
// makes such a bucket if it shares some objects under another key. No ciphertext is taken for
// plaintext.
func TestAnotherInstructionSuffix(t *testing.T) {
	b := newMotoBucket(t)
	text, err := os.ReadFile(filepath.Join(repository, "s3ec", "testdata", "vectors.json"))
	require.NoError(t, err)
	var v clientVectors
	require.NoError(t, json.Unmarshal(text, &v))
	dir := t.TempDir()
	aes, to := filepath.Join(dir, "aes"), filepath.Join(dir, "to")
	require.NoError(t, os.WriteFile(aes, []byte(v.AES), 0o600))
	require.NoError(t, local.Generate(to))
	objects := 0
	for _, o := range v.Objects {
		if !strings.HasPrefix(o.Name, "java4-aes-") || o.Instruction == "" {
			continue
		}
		objects++
		for folder, suffixes := range map[string][]string{"usual/": {".instruction"}, "own/": {".partner"}, "both/": {".instruction", ".partner"}} {
			b.put("in/"+folder+o.Name, string(o.Content), func(in *s3.PutObjectInput) { in.Metadata = o.Metadata })
			for _, suffix := range suffixes {
				b.put("in/"+folder+o.Name+suffix, o.Instruction)
			}
		}
		b.put("in/"+o.Name+".partner", "not JSON, and of no object")
	}
	require.NotZero(t, objects)
	suffix := []string{"--instruction-suffix", ".partner"}
	_, said := b.run(false, append([]string{"encrypt", "-k", "local:" + to, "--in-place", "--exclude", "*/*.partner", "--exclude", "*/*.instruction", b.url("in/")}, suffix...)...)
	require.Contains(t, said, "encrypted "+strconv.Itoa(objects)+" objects of", "those that end in .partner alone: "+said)
	require.Contains(t, said, strconv.Itoa(3*objects)+" failed", said)
	_, said = b.run(true, append([]string{"verify", "-k", "local:" + aes, "-k", "local:" + to, b.url("in/")}, suffix...)...)
	require.Contains(t, said, "verified "+strconv.Itoa(4*objects)+" objects of", said)
	for range 2 { // an object's second instruction file goes once the object was moved
		b.run(true, append([]string{"rewrap", "-k", "local:" + aes, "-k", "local:" + to, "--to", "local:" + to, "--in-place", b.url("in/")}, suffix...)...)
	}
	listed, _ := b.run(true, "ls", b.url("in/"))
	require.Equal(t, 4*objects, strings.Count(listed, " encrypted "), listed)
	require.NotContains(t, listed, "s3-client")
}
