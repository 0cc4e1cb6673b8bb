package encrypted_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/s3response"

	"piko.sh/pikokms/cmd/pikokms-gateway/internal/encrypted"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// panicking is a backend, not a folder, that panics where the engine does not recover: in other
// goroutines, and when an answer is sent.
type panicking struct {
	backend.Backend
	now atomic.Bool
}

func (p *panicking) HeadObject(ctx context.Context, in *s3.HeadObjectInput) (*s3.HeadObjectOutput, error) {
	if p.now.Load() {
		panic("head of " + *in.Key)
	}
	return p.Backend.HeadObject(ctx, in)
}

func (p *panicking) UploadPart(context.Context, *s3.UploadPartInput) (*s3.UploadPartOutput, error) {
	panic("part")
}

func (p *panicking) ListBuckets(context.Context, s3response.ListBucketsInput) (s3response.ListAllMyBucketsResult, error) {
	panic("buckets")
}

func (p *panicking) GetObject(ctx context.Context, in *s3.GetObjectInput) (*s3.GetObjectOutput, error) {
	out, err := p.Backend.GetObject(ctx, in)
	if err == nil && p.now.Load() {
		content, err := io.ReadAll(out.Body)
		if err != nil {
			return nil, err
		}
		out.Body = io.NopCloser(io.MultiReader(bytes.NewReader(content[:len(content)/2]), panickingReader{}))
	}
	return out, err
}

type panickingReader struct{}

func (panickingReader) Read([]byte) (int, error) { panic("content") }

// TestPanicsEndNoProcess panics where nothing but this package can recover.
func TestPanicsEndNoProcess(t *testing.T) {
	b := newBucket(t, behind)
	content := random(10 * 65_536)
	_, err := b.put("a", content)
	require.NoError(t, err)
	u := begin(b, "big")
	u.upload(1, random(70<<20))

	var log bytes.Buffer
	p := &panicking{Backend: behind}
	p.now.Store(true)
	key, err := encrypted.NewKey(message.Encrypter{Keyring: b.keys}, message.Decrypter{Keyrings: []provider.Unwrapper{b.keys}})
	require.NoError(t, err)
	b.Backend = encrypted.New(p, encrypted.Config{
		Keys:   func(string, string) (*encrypted.Key, error) { return key, nil },
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	logged := func(what string) {
		t.Helper()
		require.Contains(t, log.String(), "level=ERROR")
		require.Contains(t, log.String(), "panic="+what)
		require.Contains(t, log.String(), "panics_test.go")
		log.Reset()
	}

	_, err = b.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{
		Bucket: &b.name, MaxKeys: aws.Int32(10), ContinuationToken: aws.String(""), StartAfter: aws.String(""), Prefix: aws.String(""), Delimiter: aws.String(""),
	})
	require.Equal(t, "InternalError", code(err))
	logged(`"head of a"`)

	for _, byWriting := range []bool{false, true} {
		out, err := b.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &b.name, Key: aws.String("a"), Range: aws.String("")})
		require.NoError(t, err)
		var got bytes.Buffer
		if byWriting {
			_, err = out.Body.(io.WriterTo).WriteTo(&got)
		} else {
			_, err = io.Copy(&got, struct{ io.Reader }{out.Body})
		}
		require.Error(t, err)
		require.Less(t, got.Len(), len(content))
		require.NoError(t, out.Body.Close())
		logged("content")
	}

	_, err = b.PutObject(t.Context(), s3response.PutObjectInput{Bucket: &b.name, Key: aws.String("b"), ContentLength: aws.Int64(9), Body: panickingReader{}})
	require.Equal(t, "IncompleteBody", code(err))
	logged("content")

	p.now.Store(false)
	_, err = u.complete()
	require.Equal(t, "InternalError", code(err))
	logged("part")

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		b.SweepAlways(ctx, "")
		close(done)
	}()
	cancel()
	<-done
	logged("buckets")
	require.Equal(t, fmt.Sprint([]string{"a"}), fmt.Sprint(b.list(10)))
}
