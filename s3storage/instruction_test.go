package s3storage_test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/s3ec"
	"piko.sh/pikokms/s3storage"
)

// clients are objects that AWS's S3 Encryption Client wrote under an AES key.
type clients struct {
	AES     string
	Objects []struct {
		Name        string
		Metadata    map[string]string
		Instruction string
		Content     []byte
	}
}

func readClients(t *testing.T) *clients {
	t.Helper()
	text, err := os.ReadFile("../s3ec/testdata/vectors.json")
	require.NoError(t, err)
	c := new(clients)
	require.NoError(t, json.Unmarshal(text, c))
	return c
}

// host returns a host under the AES key of the objects, which it may read.
func (c *clients) host(t *testing.T, storage pikokms.Storage, options ...pikokms.Option) *pikokms.Host {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(c.AES)
	require.NoError(t, err)
	p, err := local.NewProvider(local.Config{Key: key})
	require.NoError(t, err)
	host, err := pikokms.New(append(options, pikokms.WithStorage(storage), pikokms.WithCryptoProvider("local", p),
		pikokms.AllowS3EncryptionClient(s3ec.Config{MaxMemory: 100, AllowUnauthenticated: true}))...)
	require.NoError(t, err)
	return host
}

func readAll(t *testing.T, host *pikokms.Host, key string) []byte {
	t.Helper()
	r, err := host.Get(t.Context(), key)
	require.NoError(t, err)
	defer r.Close()
	content, err := io.ReadAll(r)
	require.NoError(t, err)
	return content
}

// A key that leaves no room for an instruction file's is that of an object without one.
func TestLongestKeys(t *testing.T) {
	b := newBucketInMemory()
	b.setLie(func(w http.ResponseWriter, r *http.Request) bool {
		if _, key, _ := strings.Cut(r.URL.Path[1:], "/"); len(key) <= 1024 {
			return false
		}
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, "<Error><Code>KeyTooLongError</Code><Message>Your key is too long</Message></Error>")
		return true
	})
	storage := s3storage.New(b.serve(t), "bucket")
	host := readClients(t).host(t, storage, pikokms.AllowPlaintext())
	key := strings.Repeat("k", 1024)
	require.NoError(t, storage.Put(t.Context(), key, strings.NewReader("plain")))
	require.Equal(t, "plain", string(readAll(t, host, key)))
	require.NoError(t, host.Migrate(t.Context(), key))
	require.True(t, header.Sniff(b.content(key)))
	require.Equal(t, "plain", string(readAll(t, host, key)))
	_, err := storage.Get(t.Context(), key+"k")
	require.ErrorContains(t, err, "KeyTooLong")
}

// An instruction file that another replaced meanwhile belongs to an object that is to come.
func TestReplacedInstructionFileStays(t *testing.T) {
	all := readClients(t)
	for _, o := range all.Objects {
		if o.Name != "java4-aes-v3-instr-16" {
			continue
		}
		for _, method := range []string{http.MethodHead, http.MethodDelete} {
			b := newBucketInMemory()
			b.objects["object"], b.headers["object"] = o.Content, http.Header{}
			for name, value := range o.Metadata {
				b.headers["object"].Set("X-Amz-Meta-"+name, value)
			}
			b.objects["object.instruction"] = []byte(o.Instruction)
			const another = `{"x-amz-3":"another"}`
			b.setLie(func(_ http.ResponseWriter, r *http.Request) bool {
				if r.Method == method && strings.HasSuffix(r.URL.Path, "/object.instruction") {
					b.mu.Lock()
					defer b.mu.Unlock()
					b.objects["object.instruction"] = []byte(another)
				}
				return false
			})
			client := b.serve(t)
			if method == http.MethodDelete { // only AWS's own endpoint surely has the condition
				client = s3.New(client.Options(), func(o *s3.Options) { o.HTTPClient, o.BaseEndpoint = &redirecting{*o.BaseEndpoint}, nil })
			}
			host := all.host(t, s3storage.New(client, "bucket"))
			require.ErrorContains(t, host.Migrate(t.Context(), "object"), "object.instruction", method)
			require.True(t, header.Sniff(b.content("object")))
			require.Equal(t, another, string(b.content("object.instruction")))
		}
	}
}

// redirecting sends the requests for AWS to another endpoint.
type redirecting struct{ endpoint string }

func (c *redirecting) Do(r *http.Request) (*http.Response, error) {
	u, err := url.Parse(c.endpoint)
	if err != nil {
		return nil, err
	}
	r.URL.Scheme, r.URL.Host = u.Scheme, u.Host
	return http.DefaultClient.Do(r)
}
