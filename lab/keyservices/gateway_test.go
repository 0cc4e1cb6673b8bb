package keyservices_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// TestGateway runs the gateway under a key of each service. What it stored opens without it.
func TestGateway(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the gateway; skipped in short mode")
	}
	program := filepath.Join(t.TempDir(), "pikokms-gateway")
	out, err := exec.Command("go", "build", "-o", program, "piko.sh/pikokms/cmd/pikokms-gateway").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for scheme, makes := range makers {
		t.Run(scheme, func(t *testing.T) {
			key, folder := makes(t)[0], t.TempDir()
			client := serveGateway(t, program, "-k", key, "--folder", folder)
			content := bytes.Repeat([]byte("a secret that nobody finds. "), 10_000)
			_, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("data")})
			require.NoError(t, err)
			_, err = client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("data"), Key: aws.String("a"), Body: bytes.NewReader(content)})
			require.NoError(t, err)
			got, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("data"), Key: aws.String("a")})
			require.NoError(t, err)
			defer got.Body.Close()
			whole, err := io.ReadAll(got.Body)
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, whole))

			stored, err := os.ReadFile(filepath.Join(folder, "data", "a"))
			require.NoError(t, err)
			require.NotContains(t, string(stored), "secret")
			d := message.Decrypter{Keyrings: []provider.Unwrapper{open(t, key)}}
			plain, _, err := d.Decrypt(t.Context(), stored, nil)
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, plain))
		})
	}
}

func serveGateway(t *testing.T, program string, args ...string) *s3.Client {
	t.Helper()
	address, err := emulator.FreeAddress()
	require.NoError(t, err)
	process := exec.Command(program, append(args, "--listen", address)...)
	process.Env = append(os.Environ(), "PIKOKMS_GATEWAY_ACCESS_KEY_ID=clients", "PIKOKMS_GATEWAY_SECRET_ACCESS_KEY=secret")
	process.Stderr = t.Output()
	require.NoError(t, process.Start())
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	})
	require.Eventually(t, func() bool {
		connection, err := net.Dial("tcp", address)
		return err == nil && connection.Close() == nil
	}, time.Minute, 10*time.Millisecond, "the gateway does not listen")
	return s3.New(s3.Options{
		BaseEndpoint: aws.String("http://" + address), UsePathStyle: true, Region: "us-east-1",
		Credentials: credentials.NewStaticCredentialsProvider("clients", "secret", ""),
	})
}
