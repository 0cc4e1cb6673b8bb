package s3storage_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/s3ec"
	"piko.sh/pikokms/s3storage"
)

// TestHostsReadAndMoveObjectsOfTheS3EncryptionClient has the objects that AWS's clients wrote under
// raw keys, with and without instruction files.
func TestHostsReadAndMoveObjectsOfTheS3EncryptionClient(t *testing.T) {
	text, err := os.ReadFile("../s3ec/testdata/vectors.json")
	require.NoError(t, err)
	var vectors struct {
		AES, RSA string
		Objects  []struct {
			Name        string
			Metadata    map[string]string
			Instruction string
			Content     []byte
		}
	}
	require.NoError(t, json.Unmarshal(text, &vectors))
	raw, err := base64.StdEncoding.DecodeString(vectors.AES)
	require.NoError(t, err)
	aes, err := local.NewProvider(local.Config{Key: raw, Name: "aes"})
	require.NoError(t, err)
	rsa, err := local.NewProvider(local.Config{Key: []byte(vectors.RSA), Name: "rsa"})
	require.NoError(t, err)
	theirs := []pikokms.Option{pikokms.WithCryptoProvider("aes", aes), pikokms.WithCryptoProvider("rsa", rsa), pikokms.AllowS3EncryptionClient(s3ec.Config{})}

	moved := 0
	for _, v := range vectors.Objects {
		if strings.Contains(v.Name, "kms") {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			size, err := strconv.Atoi(v.Name[strings.LastIndex(v.Name, "-")+1:])
			require.NoError(t, err)
			plain := make([]byte, size)
			for i := range plain {
				plain[i] = byte(i*31 + size + i>>8)
			}
			b := newBucketInMemory()
			client := b.serve(t)
			metadata := map[string]string{"color": "blue"}
			for name, value := range v.Metadata {
				metadata[name] = value
			}
			_, err = client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("bucket"), Key: aws.String("object"), Body: bytes.NewReader(v.Content), Metadata: metadata})
			require.NoError(t, err)
			if v.Instruction != "" {
				b.objects["object.instruction"] = []byte(v.Instruction)
			}
			storage := s3storage.New(client, "bucket")
			read := func(host *pikokms.Host) ([]byte, error) {
				r, err := host.Get(t.Context(), "object")
				if err != nil {
					return nil, err
				}
				content, err := io.ReadAll(r)
				return content, errors.Join(err, r.Close())
			}

			for _, stranger := range []*pikokms.Host{newHost(t, storage), newHost(t, storage, pikokms.AllowPlaintext())} {
				_, err := read(stranger)
				require.ErrorIs(t, err, s3ec.ErrS3EncryptionClient)
				require.ErrorIs(t, stranger.Migrate(t.Context(), "object"), s3ec.ErrS3EncryptionClient)
			}
			_, err = read(newHost(t, storage, pikokms.AllowS3EncryptionClient(s3ec.Config{})))
			require.Error(t, err, "it has none of the keys")

			host := newHost(t, storage, theirs...)
			got, err := read(host)
			if strings.Contains(v.Name, "-eo") {
				require.ErrorIs(t, err, s3ec.ErrUnauthenticated)
				require.ErrorIs(t, host.Migrate(t.Context(), "object"), s3ec.ErrUnauthenticated)
				require.Equal(t, v.Content, b.content("object"))
				return
			}
			require.NoError(t, err)
			require.True(t, bytes.Equal(plain, got))
			if size > 8 {
				o, err := host.Open(t.Context(), "object")
				require.NoError(t, err)
				part := make([]byte, 5)
				_, err = o.ReadAt(part, 3)
				require.NoError(t, errors.Join(err, o.Close()))
				require.Equal(t, plain[3:8], part)
			}

			require.NoError(t, host.Migrate(t.Context(), "object"))
			require.True(t, header.Sniff(b.content("object")))
			require.Len(t, b.keys(), 1, "the instruction file goes")
			for name := range b.header("object") {
				require.NotContains(t, name, "X-Amz-Meta-X-Amz-")
			}
			require.Equal(t, "blue", b.header("object").Get("X-Amz-Meta-Color"))
			got, err = read(newHost(t, storage)) // which knows neither format nor keys of the client
			require.NoError(t, err)
			require.True(t, bytes.Equal(plain, got))
			moved++
		})
	}
	require.NotZero(t, moved)
	t.Logf("%d objects moved", moved)
}
