package pikokms_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/service"
)

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
	sizes := []int64{0, 1, 65536, 10 << 20, 256 << 20}
	if testing.Short() {
		sizes = sizes[:4]
	}
	for _, compression := range []string{"", "zstd"} {
		for _, size := range sizes {
			t.Run(fmt.Sprintf("%s%d", compression, size), func(t *testing.T) {
				dir := t.TempDir()
				folder, err := folderstorage.New(filepath.Join(dir, "objects"))
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
				if size == 256<<20 {
					// Far below the object: the frame's buffer, or the compressor's windows, and
					// what the collector leaves.
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
	folder, err := folderstorage.New(t.TempDir())
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
	build := exec.Command("go", "build", "-o", binary, "./cmd/pikokms")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=") // as it is shipped, even if the tests are built otherwise
	out, err := build.CombinedOutput()
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
	n := 1000
	if race.Enabled {
		n = 100
	}
	records := make([]string, n)
	for i := range records {
		records[i] = fmt.Sprintf("record %d", i)
	}
	cached := service.New(p, service.Config{Cache: &service.CacheLimits{}})
	defer cached.Close()
	for name, c := range map[string]struct {
		s    service.Service
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

// An outage of KMS opens the breaker; from then on nothing leaves the process, for streams and the
// host's uploads, too.
func TestBreakerUnderKMS(t *testing.T) {
	const outagesToOpen = 5 // of the circuit breaker of package service
	p, client, calls := newProvider(t)
	options := client.Options().Copy()
	options.Retryer = aws.NopRetryer{} // its backing off is not what is tested
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: p.KeyID(), Client: kms.New(options)})
	require.NoError(t, err)
	f := newFixture(t, pikokms.WithCryptoProvider("kms", p), pikokms.WithDefaultCryptoProvider("kms"))
	require.NoError(t, f.Put(t.Context(), "before", strings.NewReader("content")))
	calls.take()

	calls.setDown(true)
	for range outagesToOpen {
		err := f.Put(t.Context(), "during", strings.NewReader("content"))
		require.ErrorIs(t, err, provider.ErrProviderUnavailable)
		require.NotErrorIs(t, err, service.ErrBreakerOpen)
	}
	require.Equal(t, map[string]int{"GenerateDataKey": outagesToOpen}, calls.take())
	require.Equal(t, service.StateOpen, f.CryptoService().State())
	calls.setDown(false)
	begin := time.Now()
	for range 1000 {
		require.ErrorIs(t, f.Put(t.Context(), "during", strings.NewReader("content")), service.ErrBreakerOpen)
		_, err := f.Get(t.Context(), "before")
		require.ErrorIs(t, err, service.ErrBreakerOpen)
	}
	t.Logf("2,000 uploads and downloads are refused in %v", time.Since(begin))
	require.Empty(t, calls.take(), "an open breaker sends nothing")
	require.ElementsMatch(t, []string{"before"}, f.files(t), "failed uploads leave nothing behind")
}
