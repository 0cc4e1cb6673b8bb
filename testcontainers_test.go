package pikokms_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/provider/providertest"
	"piko.sh/pikokms/service"
)

const region = "eu-west-1"

// localStack is the one container of this package's tests: a process of the nested module internal/localstack, which holds
// the testcontainers dependency, ends the container when its standard input ends.
var localStack struct {
	once     sync.Once
	endpoint string
	err      error
	stop     func()
}

func startLocalStack() {
	command := exec.Command("go", "run", "./serve")
	command.Dir = filepath.Join("internal", "localstack")
	command.Env = append(os.Environ(), "GOFLAGS=") // not built with the race detector when the tests are
	var stderr bytes.Buffer
	command.Stderr = &stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		localStack.err = err
		return
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		localStack.err = err
		return
	}
	if localStack.err = command.Start(); localStack.err != nil {
		return
	}
	localStack.stop = func() { _ = stdin.Close(); _ = command.Wait() }
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		localStack.stop()
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		localStack.err = fmt.Errorf("%s", lines[max(0, len(lines)-2)])
		return
	}
	localStack.endpoint = strings.TrimSpace(line)
}

// endpoint returns LocalStack's URL, or skips the test on a machine without Docker.
func endpoint(t *testing.T) string {
	t.Helper()
	if os.Getenv("PIKOKMS_REQUIRE_DOCKER") != "1" && exec.Command("docker", "info").Run() != nil {
		t.Skip("skipped: LocalStack needs a Docker engine, and none answers (PIKOKMS_REQUIRE_DOCKER=1 makes this a failure)")
	}
	localStack.once.Do(startLocalStack)
	require.NoError(t, localStack.err, "LocalStack did not start")
	return localStack.endpoint
}

func TestMain(m *testing.M) {
	os.Unsetenv("AWS_PROFILE")
	os.Unsetenv("AWS_SESSION_TOKEN")
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		os.Setenv(name, value)
	}
	code := m.Run()
	if localStack.stop != nil {
		localStack.stop()
	}
	os.Exit(code)
}

// callCounter counts KMS calls where they leave the process.
type callCounter struct {
	mu    sync.Mutex
	calls map[string]int
	down  bool // KMS answers 503 to everything
}

func (c *callCounter) RoundTrip(r *http.Request) (*http.Response, error) {
	operation := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	c.mu.Lock()
	c.calls[operation]++
	down := c.down
	c.mu.Unlock()
	if down {
		return &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	}
	return http.DefaultTransport.RoundTrip(r)
}

// take returns the calls since the last take.
func (c *callCounter) take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := c.calls
	c.calls = make(map[string]int)
	return calls
}

// newClient returns a client of LocalStack's KMS and the counter of its calls.
func newClient(t *testing.T) (*kms.Client, *callCounter) {
	t.Helper()
	counter := &callCounter{calls: make(map[string]int)}
	return kms.New(kms.Options{
		Region:       region,
		BaseEndpoint: aws.String(endpoint(t)),
		Credentials:  credentials.NewStaticCredentialsProvider("test", "test", ""),
		HTTPClient:   &http.Client{Transport: counter},
	}), counter
}

func newKey(t *testing.T, client *kms.Client, input *kms.CreateKeyInput) *types.KeyMetadata {
	t.Helper()
	out, err := client.CreateKey(t.Context(), input)
	require.NoError(t, err)
	return out.KeyMetadata
}

// newProvider makes a provider on a new key.
func newProvider(t *testing.T) (*awskms.Provider, *kms.Client, *callCounter) {
	t.Helper()
	client, counter := newClient(t)
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: *newKey(t, client, &kms.CreateKeyInput{}).KeyId, Client: client})
	require.NoError(t, err)
	counter.take()
	return p, client, counter
}

func TestKMSConformance(t *testing.T) {
	p, client, _ := newProvider(t)
	stranger, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: *newKey(t, client, &kms.CreateKeyInput{}).Arn, Client: client})
	require.NoError(t, err)
	providertest.Run(t,
		func(*testing.T) provider.EncryptionProvider { return p },
		func(*testing.T) provider.EncryptionProvider { return stranger })
}

func TestKMSKeyForms(t *testing.T) {
	client, _ := newClient(t)
	key := newKey(t, client, &kms.CreateKeyInput{Description: aws.String("key forms")})
	alias := "alias/forms-" + strings.ToLower(rand.Text())
	_, err := client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: key.KeyId})
	require.NoError(t, err)

	forms := []string{*key.KeyId, *key.Arn, alias, strings.Replace(*key.Arn, "key/"+*key.KeyId, alias, 1)}
	var stored [][]byte
	for _, form := range forms {
		p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: form, Region: region, Endpoint: endpoint(t)})
		require.NoError(t, err, form)
		require.Equal(t, *key.Arn, p.ARN())
		for _, keyID := range []string{"", form, *key.Arn} {
			_, err = p.Encrypt(t.Context(), &provider.EncryptRequest{Plaintext: "x", KeyID: keyID})
			require.NoError(t, err)
		}
		info, err := p.GetKeyInfo(t.Context(), "")
		require.NoError(t, err)
		require.Equal(t, "key forms", info.Description)
		require.Equal(t, *key.Arn, info.Metadata["arn"])

		e := message.Encrypter{Keyring: p}
		ciphertext, err := e.Encrypt(t.Context(), []byte(form), nil)
		require.NoError(t, err)
		stored = append(stored, ciphertext)
	}
	// Whatever the key was called, messages carry its ARN, and every form reads what another wrote.
	for _, form := range forms {
		p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: form, Client: client})
		require.NoError(t, err)
		for i, ciphertext := range stored {
			d := message.Decrypter{Keyrings: []provider.Keyring{p}}
			plaintext, _, err := d.Decrypt(t.Context(), ciphertext, nil)
			require.NoError(t, err)
			require.Equal(t, forms[i], string(plaintext))
			h, _, err := header.Parse(ciphertext, header.Limits{})
			require.NoError(t, err)
			require.Equal(t, *key.Arn, string(h.EncryptedDataKeys[0].ProviderInfo))
		}
	}
}

func TestKMSCallsPerOperation(t *testing.T) {
	p, client, counter := newProvider(t)
	pairs := map[string]string{"tenant": "42"}
	for _, size := range []int{0, 1 << 10, 10 << 20} {
		var stored bytes.Buffer
		w, err := (&message.Encrypter{Keyring: p}).NewWriter(t.Context(), &stored, pairs)
		require.NoError(t, err)
		_, err = w.Write(make([]byte, size))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		require.Equal(t, map[string]int{"GenerateDataKey": 1}, counter.take(), "encrypting a stream of %d bytes", size)

		r, err := (&message.Decrypter{Keyrings: []provider.Keyring{p}}).NewReader(t.Context(), &stored, nil)
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, r)
		require.NoError(t, err)
		require.EqualValues(t, size, n)
		require.Equal(t, map[string]int{"Decrypt": 1}, counter.take(), "decrypting a stream of %d bytes", size)
	}

	// A value of up to 4,096 bytes goes to KMS itself, a larger one under a data key.
	for size, operation := range map[int]string{1: "Encrypt", 4096: "Encrypt", 4097: "GenerateDataKey"} {
		encrypted, err := p.Encrypt(t.Context(), &provider.EncryptRequest{Plaintext: strings.Repeat("x", size), Context: pairs})
		require.NoError(t, err)
		require.Equal(t, map[string]int{operation: 1}, counter.take())
		_, err = p.Decrypt(t.Context(), &provider.DecryptRequest{Ciphertext: encrypted.Ciphertext, Context: pairs})
		require.NoError(t, err)
		require.Equal(t, map[string]int{"Decrypt": 1}, counter.take())
	}

	// What a header says is not believed: KMS hears nothing of keys that the provider is not configured for, of headers
	// over the limits, nor when a stated pair is missing.
	stranger, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: *newKey(t, client, &kms.CreateKeyInput{}).Arn, Client: client})
	require.NoError(t, err)
	e := message.Encrypter{Keyring: stranger}
	foreign, err := e.Encrypt(t.Context(), []byte("secret"), nil)
	require.NoError(t, err)
	e = message.Encrypter{Keyring: p}
	own, err := e.Encrypt(t.Context(), []byte("secret"), pairs)
	require.NoError(t, err)
	counter.take()
	d := message.Decrypter{Keyrings: []provider.Keyring{p}}
	_, _, err = d.Decrypt(t.Context(), foreign, nil)
	require.ErrorIs(t, err, provider.ErrUntrustedKey)
	require.ErrorContains(t, err, stranger.ARN())
	_, _, err = d.Decrypt(t.Context(), own, map[string]string{"tenant": "43"})
	require.ErrorIs(t, err, provider.ErrContextMismatch)
	d.Limits.MaxSize = 100
	_, _, err = d.Decrypt(t.Context(), own, nil)
	require.ErrorIs(t, err, header.ErrLimit)
	require.Empty(t, counter.take())
}

func TestKMSTamperedHeader(t *testing.T) {
	p, _, counter := newProvider(t)
	e := message.Encrypter{Keyring: p}
	stored, err := e.Encrypt(t.Context(), []byte("secret"), map[string]string{"tenant": "42"})
	require.NoError(t, err)
	h, size, err := header.Parse(stored, header.Limits{})
	require.NoError(t, err)
	counter.take()

	d := message.Decrypter{Keyrings: []provider.Keyring{p}}
	for at := range size {
		changed := bytes.Clone(stored)
		changed[at] ^= 0x01
		_, _, err := d.Decrypt(t.Context(), changed, nil)
		require.Error(t, err, "byte %d", at)
		require.NotErrorIs(t, err, provider.ErrProviderUnavailable, "byte %d: a changed byte is no outage", at)
	}
	t.Logf("%d changed header bytes refused with %v calls of KMS", size, counter.take())

	// The context that KMS authenticates is the header's.
	h.EncryptionContext["tenant"] = "43"
	aead, _, err := h.Suite.DeriveKeys(make([]byte, 32), h.MessageID)
	require.NoError(t, err)
	require.NoError(t, h.Seal(aead, nil))
	_, _, err = d.Decrypt(t.Context(), append(bytes.Clone(h.Bytes()), stored[size:]...), nil)
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)
}

func TestKMSKeyStates(t *testing.T) {
	p, client, _ := newProvider(t)
	e := message.Encrypter{Keyring: p}
	d := message.Decrypter{Keyrings: []provider.Keyring{p}}
	stored, err := e.Encrypt(t.Context(), []byte("secret"), nil)
	require.NoError(t, err)
	refused := func(want error) {
		t.Helper()
		_, err := e.Encrypt(t.Context(), []byte("more"), nil)
		require.ErrorIs(t, err, want)
		_, _, err = d.Decrypt(t.Context(), stored, nil)
		require.ErrorIs(t, err, want)
		_, err = p.Encrypt(t.Context(), &provider.EncryptRequest{Plaintext: "more"})
		require.ErrorIs(t, err, want)
		require.ErrorIs(t, p.HealthCheck(t.Context()), want)
		_, err = awskms.NewProvider(t.Context(), awskms.Config{KeyID: p.ARN(), Client: client})
		require.ErrorIs(t, err, want)
	}

	_, err = client.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: aws.String(p.ARN())})
	require.NoError(t, err)
	refused(provider.ErrKeyDisabled)
	info, err := p.GetKeyInfo(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, provider.KeyStatusDisabled, info.Status)

	_, err = client.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: aws.String(p.ARN())})
	require.NoError(t, err)
	plaintext, _, err := d.Decrypt(t.Context(), stored, nil)
	require.NoError(t, err)
	require.Equal(t, "secret", string(plaintext))

	_, err = client.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: aws.String(p.ARN()), PendingWindowInDays: aws.Int32(7)})
	require.NoError(t, err)
	refused(provider.ErrKeyPendingDeletion)
	info, err = p.GetKeyInfo(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, provider.KeyStatusDestroyed, info.Status)
	require.NotNil(t, info.DeletionDate)
}

func TestKMSRotationKeepsOldObjectsReadable(t *testing.T) {
	p, client, _ := newProvider(t)
	e := message.Encrypter{Keyring: p}
	d := message.Decrypter{Keyrings: []provider.Keyring{p}}
	var stored [][]byte
	for i := range 3 {
		ciphertext, err := e.Encrypt(t.Context(), fmt.Appendf(nil, "generation %d", i), nil)
		require.NoError(t, err)
		stored = append(stored, ciphertext)
		_, err = client.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: aws.String(p.ARN())})
		require.NoError(t, err)
		for j, ciphertext := range stored {
			plaintext, _, err := d.Decrypt(t.Context(), ciphertext, nil)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("generation %d", j), string(plaintext))
		}
	}
}

func TestKMSBootErrors(t *testing.T) {
	client, _ := newClient(t)
	arn := *newKey(t, client, &kms.CreateKeyInput{}).Arn
	rsa := newKey(t, client, &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt})
	hmac := newKey(t, client, &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	for name, c := range map[string]struct {
		config awskms.Config
		want   error
		says   string
	}{
		"missing key":   {awskms.Config{KeyID: "00000000-0000-0000-0000-000000000000"}, provider.ErrKeyNotFound, "eu-west-1"},
		"missing alias": {awskms.Config{KeyID: "alias/nobody"}, provider.ErrKeyNotFound, "alias/nobody"},
		"RSA":           {awskms.Config{KeyID: *rsa.Arn}, provider.ErrKeyUsage, "RSA_2048"},
		"HMAC":          {awskms.Config{KeyID: *hmac.Arn}, provider.ErrKeyUsage, "GENERATE_VERIFY_MAC"},
		"other Region":  {awskms.Config{KeyID: strings.Replace(arn, region, "us-east-1", 1)}, provider.ErrInvalidKey, "us-east-1"},
	} {
		t.Run(name, func(t *testing.T) {
			c.config.Region, c.config.Endpoint = region, endpoint(t)
			_, err := awskms.NewProvider(t.Context(), c.config)
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, c.says)
		})
	}
}

// These need no KMS: what is wrong is on this side, or an answer that LocalStack, which grants everything, never gives.
func TestKMSBootErrorsWithoutKMS(t *testing.T) {
	const arn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	for name, c := range map[string]struct {
		config awskms.Config
		says   string
	}{
		"no key":            {awskms.Config{Region: region}, "KeyID"},
		"no Region":         {awskms.Config{KeyID: arn}, "Region"},
		"negative retries":  {awskms.Config{KeyID: arn, Region: region, MaxRetries: -1}, "negative"},
		"not a key's ARN":   {awskms.Config{KeyID: "arn:aws:s3:::bucket", Region: region}, "not the ARN"},
		"client and Region": {awskms.Config{KeyID: arn, Region: "us-east-1", Client: kms.New(kms.Options{Region: region})}, "Client"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := awskms.NewProvider(t.Context(), c.config)
			require.ErrorContains(t, err, c.says)
		})
	}

	t.Run("unreachable", func(t *testing.T) {
		server := httptest.NewServer(nil)
		server.Close()
		_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: arn, Region: region, MaxRetries: 1, Endpoint: server.URL})
		require.ErrorIs(t, err, provider.ErrProviderUnavailable)
	})
	t.Run("no credentials", func(t *testing.T) {
		t.Setenv("AWS_ACCESS_KEY_ID", "")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "")
		_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: arn, Region: region})
		require.ErrorIs(t, err, provider.ErrAccessDenied)
		require.ErrorContains(t, err, "no AWS credentials")
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := awskms.NewProvider(ctx, awskms.Config{KeyID: arn, Region: region})
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, provider.ErrProviderUnavailable)
	})
	for code, want := range map[string]error{"AccessDeniedException": provider.ErrAccessDenied, "UnrecognizedClientException": provider.ErrAccessDenied} {
		t.Run(code, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/x-amz-json-1.1")
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprintf(w, `{"__type":%q,"message":"not you"}`, code)
			}))
			defer server.Close()
			_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: arn, Region: region, Endpoint: server.URL})
			require.ErrorIs(t, err, want)
		})
	}
	for retries, want := range map[int]int{0: 4, 1: 2} {
		t.Run(fmt.Sprintf("%d retries", retries), func(t *testing.T) {
			requests := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests++
				w.WriteHeader(http.StatusServiceUnavailable)
			}))
			defer server.Close()
			_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: arn, Region: region, Endpoint: server.URL, MaxRetries: retries})
			require.ErrorIs(t, err, provider.ErrProviderUnavailable)
			require.Equal(t, want, requests)
		})
	}
}

// blocks reads as n bytes that compress to about a half, different in every 64 KiB.
func blocks(n int64) io.Reader {
	return io.LimitReader(&blockReader{}, n)
}

type blockReader struct {
	number uint64
	block  []byte
}

func (r *blockReader) Read(p []byte) (int, error) {
	if len(r.block) == 0 {
		if r.block == nil {
			r.block = make([]byte, 64<<10)
			_, _ = rand.Read(r.block[:32<<10])
		}
		r.block = r.block[:64<<10]
		copy(r.block, fmt.Sprintf("block %d", r.number))
		r.number++
	}
	n := copy(p, r.block)
	r.block = r.block[n:]
	if len(r.block) == 0 {
		r.block = nil
	}
	return n, nil
}

// heapWatch samples the heap while a stream goes through it.
type heapWatch struct {
	io.Reader
	next, total int64
	peak        uint64
}

func (w *heapWatch) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if w.total += int64(n); w.total >= w.next {
		w.next += 32 << 20
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		w.peak = max(w.peak, m.HeapInuse+m.StackInuse)
	}
	return n, err
}

func TestPipelineOnFilesUnderKMS(t *testing.T) {
	p, _, counter := newProvider(t)
	sizes := []int64{0, 1, 65536, 10 << 20, 1 << 30}
	if testing.Short() {
		sizes = sizes[:4]
	}
	for _, compression := range []string{"", "zstd"} {
		for _, size := range sizes {
			t.Run(fmt.Sprintf("%s%d", compression, size), func(t *testing.T) {
				dir := t.TempDir()
				folder, err := pikokms.NewFolder(filepath.Join(dir, "objects"))
				require.NoError(t, err)
				defer folder.Close()
				options := []pikokms.Option{
					pikokms.WithCryptoProvider("aws_kms", p),
					pikokms.WithDefaultCryptoProvider("aws_kms"),
					pikokms.WithStorage(folder),
				}
				if compression != "" {
					options = append(options, pikokms.WithEnabledTransformers(compression))
				}
				host, err := pikokms.New(options...)
				require.NoError(t, err)

				source, err := os.Create(filepath.Join(dir, "source"))
				require.NoError(t, err)
				defer source.Close()
				sum := sha256.New()
				_, err = io.Copy(io.MultiWriter(source, sum), blocks(size))
				require.NoError(t, err)
				_, err = source.Seek(0, io.SeekStart)
				require.NoError(t, err)

				var before runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				up := &heapWatch{Reader: source}
				require.NoError(t, host.Put(t.Context(), "object", up))
				require.Equal(t, map[string]int{"GenerateDataKey": 1}, counter.take())

				content, err := host.Get(t.Context(), "object")
				require.NoError(t, err)
				down := &heapWatch{Reader: content}
				again := sha256.New()
				n, err := io.CopyBuffer(struct{ io.Writer }{again}, struct{ io.Reader }{down}, make([]byte, 64<<10))
				require.NoError(t, err)
				require.NoError(t, content.Close())
				require.Equal(t, size, n)
				require.Equal(t, sum.Sum(nil), again.Sum(nil))
				require.Equal(t, map[string]int{"Decrypt": 1}, counter.take())

				stored, err := os.Stat(filepath.Join(dir, "objects", "object"))
				require.NoError(t, err)
				t.Logf("%d bytes stored as %d; heap before %d KiB, peak %d KiB up, %d KiB down",
					size, stored.Size(), before.HeapInuse>>10, up.peak>>10, down.peak>>10)
				if size > 1<<20 && compression != "" {
					require.Less(t, stored.Size(), size*6/10)
				}
				if size == 1<<30 {
					// Far below the object: the frame's buffer, or the compressor's windows, and what the collector leaves.
					require.Less(t, max(up.peak, down.peak), before.HeapInuse+before.StackInuse+64<<20)
				}
			})
		}
	}
}

func TestSwitchingProvidersUnderKMS(t *testing.T) {
	onKMS, _, _ := newProvider(t)
	onDisk, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{1}, 32)})
	require.NoError(t, err)
	defer onDisk.Close()
	folder, err := pikokms.NewFolder(t.TempDir())
	require.NoError(t, err)
	defer folder.Close()
	hosts := map[string]*pikokms.Host{}
	for _, name := range []string{"local", "aws_kms"} {
		hosts[name], err = pikokms.New(
			pikokms.WithCryptoProvider("local", onDisk),
			pikokms.WithCryptoProvider("aws_kms", onKMS),
			pikokms.WithDefaultCryptoProvider(name),
			pikokms.WithStorage(folder),
		)
		require.NoError(t, err)
		require.NoError(t, hosts[name].Put(t.Context(), name, strings.NewReader("under "+name)))
	}
	for _, host := range hosts {
		for name := range hosts {
			content, err := host.Get(t.Context(), name)
			require.NoError(t, err)
			got, err := io.ReadAll(content)
			require.NoError(t, err)
			require.NoError(t, content.Close())
			require.Equal(t, "under "+name, string(got))
		}
	}
}

func TestCommandUnderKMS(t *testing.T) {
	client, _ := newClient(t)
	key := newKey(t, client, &kms.CreateKeyInput{})
	alias := "alias/command-" + strings.ToLower(rand.Text())
	_, err := client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: key.KeyId})
	require.NoError(t, err)
	dir := t.TempDir()
	binary := filepath.Join(dir, "pikokms.exe")
	out, err := exec.Command("go", "build", "-o", binary, "./cmd/pikokms").CombinedOutput()
	require.NoError(t, err, string(out))
	query := "?region=" + region + "&endpoint=" + endpoint(t)

	plaintext := bytes.Repeat([]byte("an operator's file\n"), 10_000)
	in := filepath.Join(dir, "in")
	require.NoError(t, os.WriteFile(in, plaintext, 0o600))
	forms := []string{"awskms://" + alias + query, "awskms:///" + *key.Arn + query, "awskms://" + *key.KeyId + query}
	for i, form := range forms {
		sealed, opened := fmt.Sprintf("%s.%d.sealed", in, i), fmt.Sprintf("%s.%d.opened", in, i)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, binary, "encrypt", "-k", form, "-c", "purpose=test", "--compress", "zstd", "-o", sealed, in).CombinedOutput()
		require.NoError(t, err, string(out))
		out, err = exec.CommandContext(ctx, binary, "decrypt", "-k", forms[(i+1)%len(forms)], "-c", "purpose=test", "-o", opened, sealed).CombinedOutput()
		require.NoError(t, err, string(out))
		got, err := os.ReadFile(opened)
		require.NoError(t, err)
		require.Equal(t, plaintext, got)
		out, err = exec.CommandContext(ctx, binary, "inspect", sealed).CombinedOutput()
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), *key.Arn)
	}
}

func TestBatchesUnderKMS(t *testing.T) {
	p, _, calls := newProvider(t)
	records := make([]string, 1000)
	for i := range records {
		records[i] = fmt.Sprintf("record %d", i)
	}
	cached := service.New(p, service.Config{Cache: &service.CacheLimits{}})
	defer cached.Close()
	for name, c := range map[string]struct {
		s    *service.Service
		want map[string]int
	}{
		"without a cache": {service.New(p, service.Config{}), map[string]int{"GenerateDataKey": 100, "Decrypt": 1}},
		"with a cache":    {cached, map[string]int{"GenerateDataKey": 1, "Decrypt": 1}},
	} {
		calls.take()
		var last []string
		for range 100 {
			texts, err := c.s.EncryptBatch(t.Context(), records, map[string]string{"table": "customers"})
			require.NoError(t, err)
			last = texts
		}
		got, err := c.s.DecryptBatch(t.Context(), last, map[string]string{"table": "customers"}, 1)
		require.NoError(t, err)
		require.Equal(t, records, got)
		require.Equal(t, c.want, calls.take(), name)
		t.Logf("%s: 100,000 records in batches of 1,000 take %v calls of KMS", name, c.want)
	}
}

// An outage of KMS opens the breaker; from then on nothing leaves the process, for streams and the host's uploads, too.
func TestBreakerUnderKMS(t *testing.T) {
	p, client, calls := newProvider(t)
	options := client.Options().Copy()
	options.Retryer = aws.NopRetryer{} // its backing off is not what is tested
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: p.ARN(), Client: kms.New(options)})
	require.NoError(t, err)
	f := newFixture(t, pikokms.WithCryptoProvider("kms", p), pikokms.WithDefaultCryptoProvider("kms"))
	require.NoError(t, f.Put(t.Context(), "before", strings.NewReader("content")))
	calls.take()

	calls.down = true
	for range service.Failures {
		err := f.Put(t.Context(), "during", strings.NewReader("content"))
		require.ErrorIs(t, err, provider.ErrProviderUnavailable)
		require.NotErrorIs(t, err, service.ErrOpen)
	}
	require.Equal(t, map[string]int{"GenerateDataKey": service.Failures}, calls.take())
	require.Equal(t, service.StateOpen, f.CryptoService().State())
	calls.down = false
	begin := time.Now()
	for range 1000 {
		require.ErrorIs(t, f.Put(t.Context(), "during", strings.NewReader("content")), service.ErrOpen)
		_, err := f.Get(t.Context(), "before")
		require.ErrorIs(t, err, service.ErrOpen)
	}
	t.Logf("2,000 uploads and downloads are refused in %v", time.Since(begin))
	require.Empty(t, calls.take(), "an open breaker sends nothing")
	require.ElementsMatch(t, []string{"before"}, f.files(t), "failed uploads leave nothing behind")
}
