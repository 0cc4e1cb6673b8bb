package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/kmstest"
)

// writeCertificate writes a new certificate of this computer and its key to two files.
func writeCertificate(t *testing.T, certFile, keyFile string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	number, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: number, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}

// TestTLS serves by HTTPS, reads a new certificate on SIGHUP, and answers probes by HTTP, even
// while it stops.
func TestTLS(t *testing.T) {
	dir, health := t.TempDir(), freeAddress(t)
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	trusted := writeCertificate(t, certFile, keyFile)
	g := start(t, "-k", newKey(t), "--folder", t.TempDir(), "--tls-cert", certFile, "--tls-key", keyFile, "--health", health)
	address := strings.TrimPrefix(g.url, "http://")
	client := func() *s3.Client {
		roots := x509.NewCertPool()
		roots.AddCert(trusted)
		options := g.client.Options()
		options.BaseEndpoint = aws.String("https://" + address)
		options.HTTPClient = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
		options.Retryer = aws.NopRetryer{}
		return s3.New(options)
	}
	_, err := client().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("data")})
	require.NoError(t, err)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	_, err = client().PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("data"), Key: aws.String("a"), Body: bytes.NewReader(content)})
	require.NoError(t, err)

	trusted = writeCertificate(t, certFile, keyFile)
	_, err = client().ListBuckets(t.Context(), nil)
	require.Error(t, err, "the certificate is the old one")
	require.NoError(t, g.process.Process.Signal(syscall.SIGHUP))
	require.Eventually(t, func() bool {
		_, err := client().ListBuckets(t.Context(), nil)
		return err == nil
	}, time.Minute, 20*time.Millisecond, "the certificate is not the new one")

	// A certificate that can't be read leaves the one in use.
	require.NoError(t, os.WriteFile(certFile, []byte("no certificate"), 0o600))
	require.NoError(t, g.process.Process.Signal(syscall.SIGHUP))
	time.Sleep(100 * time.Millisecond)
	got, err := client().GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("data"), Key: aws.String("a")})
	require.NoError(t, err)
	defer got.Body.Close()
	ready := func() int {
		answer, err := http.Get("http://" + health + "/readyz")
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		return answer.StatusCode
	}
	require.Equal(t, http.StatusOK, ready())

	// Whoever reads an object when the gateway stops gets all of it. By then probes send new clients
	// elsewhere.
	require.NoError(t, g.process.Process.Signal(syscall.SIGTERM))
	require.Eventually(t, func() bool { return ready() == http.StatusServiceUnavailable }, time.Minute, 10*time.Millisecond)
	whole, err := io.ReadAll(got.Body)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, whole))
	require.NoError(t, g.process.Wait())
}

// TestDataKeyCache uses a data key for several objects.
func TestDataKeyCache(t *testing.T) {
	kms := kmstest.NewServer(t)
	t.Setenv("AWS_ACCESS_KEY_ID", testKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", testSecret)
	g := start(t, "-k", "awskms:///"+kms.CreateKey(kmstest.Key{}).ARN+"?endpoint="+kms.URL, "--folder", t.TempDir(), "--data-key-cache", "5m")
	g.makeBucket(t, "data")
	begun, read := kms.Calls("GenerateDataKey"), kms.Calls("Decrypt") // which checked the key
	for _, name := range []string{"a", "b", "c", "d"} {
		_, err := g.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("data"), Key: &name, Body: strings.NewReader(name)})
		require.NoError(t, err)
		got, err := g.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("data"), Key: &name})
		require.NoError(t, err)
		content, err := io.ReadAll(got.Body)
		require.NoError(t, err)
		require.Equal(t, name, string(content))
	}
	require.Equal(t, 1, kms.Calls("GenerateDataKey")-begun)
	require.LessOrEqual(t, kms.Calls("Decrypt")-read, 1)
}
