package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	"github.com/stretchr/testify/require"
)

// The long forms, whose figures are in docs/notes/RELIABILITY.md, are
//
//	go test ./gateway -run TestSoak -gateway.soak 30m -timeout 1h -v
//	go test ./gateway -run TestKilled -gateway.kills 200 -timeout 1h -v
//	go test ./gateway -run TestChangedRequests -gateway.changed 100000 -timeout 1h -v
var (
	soakTime    = flag.Duration("gateway.soak", 3*time.Second, "how long TestSoak takes")
	kills       = flag.Int("gateway.kills", 3, "how many gateways TestKilled kills")
	connections = flag.Int("gateway.connections", 1000, "how many TestConnections has at a time")
)

const bucket = "data"

// newClient returns a client of a server. It tries nothing again.
func newClient(url string) *s3.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	return s3.New(s3.Options{
		BaseEndpoint: &url, UsePathStyle: true, Region: region, Credentials: credentials.NewStaticCredentialsProvider(access, secret, ""),
		HTTPClient: &http.Client{Transport: transport}, Retryer: aws.NopRetryer{},
		APIOptions: []func(*middleware.Stack) error{v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware},
		// Contents are compared as a whole.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired, ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	})
}

func makeBucket(t *testing.T, c *s3.Client) {
	t.Helper()
	_, err := c.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String(bucket)})
	require.NoError(t, err)
}

// contentOf returns a content that begins with the marker and is another for each seed.
func contentOf(seed uint64, size int) []byte {
	var key [32]byte
	copy(key[:], fmt.Sprint(seed))
	b := make([]byte, max(size, len(marker)))
	_, _ = rand.NewChaCha8(key).Read(b) // it never fails
	copy(b, marker)
	return b
}

// requireNothingPlain fails if a file below a folder has the marker of all contents.
func requireNothingPlain(t *testing.T, folder string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if bytes.Contains(content, []byte(marker)) {
			t.Errorf("%s is plain", path)
		}
		return err
	}))
}

// worker uses one object, which nobody else does.
type worker struct {
	client  *s3.Client
	key     string
	r       *rand.Rand
	content []byte // nil for no object
}

func (w *worker) target() (bucketName, key *string) { return aws.String(bucket), &w.key }

func (w *worker) fresh(size int) []byte { return contentOf(w.r.Uint64(), size) }

func (w *worker) put(ctx context.Context) error {
	content := w.fresh(w.r.IntN(300_000))
	b, key := w.target()
	_, err := w.client.PutObject(ctx, &s3.PutObjectInput{Bucket: b, Key: key, Body: bytes.NewReader(content)})
	if err == nil {
		w.content = content
	}
	return err
}

// begin begins an upload and sends its parts, in any order.
func (w *worker) begin(ctx context.Context, content []byte) (*s3.CompleteMultipartUploadInput, error) {
	const size = 5 << 20
	b, key := w.target()
	upload, err := w.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: b, Key: key})
	if err != nil {
		return nil, err
	}
	done := &s3.CompleteMultipartUploadInput{Bucket: b, Key: key, UploadId: upload.UploadId, MultipartUpload: &types.CompletedMultipartUpload{}}
	parts := slices.Collect(slices.Chunk(content, size))
	done.MultipartUpload.Parts = make([]types.CompletedPart, len(parts))
	for _, i := range w.r.Perm(len(parts)) {
		number := int32(i + 1)
		out, err := w.client.UploadPart(ctx, &s3.UploadPartInput{Bucket: b, Key: key, UploadId: upload.UploadId, PartNumber: &number, Body: bytes.NewReader(parts[i])})
		if err != nil {
			return done, err
		}
		done.MultipartUpload.Parts[i] = types.CompletedPart{ETag: out.ETag, PartNumber: &number}
	}
	return done, nil
}

func (w *worker) multipart(ctx context.Context) error {
	content := w.fresh(6 << 20)
	upload, err := w.begin(ctx, content)
	if err != nil {
		return err
	}
	if w.r.IntN(3) == 0 {
		_, err := w.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: upload.Bucket, Key: upload.Key, UploadId: upload.UploadId})
		return err
	}
	if _, err = w.client.CompleteMultipartUpload(ctx, upload); err == nil {
		w.content = content
	}
	return err
}

func (w *worker) get(ctx context.Context) error {
	b, key := w.target()
	from, want, in := 0, w.content, &s3.GetObjectInput{Bucket: b, Key: key}
	if w.r.IntN(2) == 0 {
		from = w.r.IntN(len(w.content))
		want = w.content[from:min(from+100_000, len(w.content))]
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", from, from+len(want)-1))
	}
	out, err := w.client.GetObject(ctx, in)
	if err != nil {
		return err
	}
	defer out.Body.Close()
	if w.r.IntN(10) == 0 {
		_, err := io.CopyN(io.Discard, out.Body, int64(len(want)/2))
		return err // and the connection is broken off
	}
	got, err := io.ReadAll(out.Body)
	if err == nil && !bytes.Equal(want, got) {
		err = errors.New("what is read was not put")
	}
	return err
}

func (w *worker) list(ctx context.Context) error {
	out, err := w.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: aws.String(bucket), Prefix: &w.key})
	if err == nil && (len(out.Contents) == 1) != (w.content != nil) {
		err = fmt.Errorf("%d objects are listed", len(out.Contents))
	}
	if err == nil && w.content != nil && *out.Contents[0].Size != int64(len(w.content)) {
		err = errors.New("another size is listed")
	}
	return err
}

func (w *worker) remove(ctx context.Context) error {
	b, key := w.target()
	_, err := w.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: b, Key: key})
	if err == nil {
		w.content = nil
	}
	return err
}

func (w *worker) step(ctx context.Context) error {
	switch n := w.r.IntN(12); {
	case w.content == nil && n > 2, n < 3:
		return w.put(ctx)
	case n == 3:
		return w.multipart(ctx)
	case w.content == nil || n == 4:
		return w.list(ctx)
	case n == 5:
		return w.remove(ctx)
	}
	return w.get(ctx)
}

// use is what a process has at a moment.
type use struct {
	resident uint64 // bytes
	files    int
}

func useOf(t *testing.T, process *exec.Cmd) (u use) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", process.Process.Pid)
	text, err := os.ReadFile(proc + "statm")
	if err != nil {
		t.Skip("skipped: no /proc here has the memory of a process")
	}
	var size, resident uint64
	_, err = fmt.Sscan(string(text), &size, &resident)
	require.NoError(t, err)
	entries, err := os.ReadDir(proc + "fd")
	require.NoError(t, err)
	return use{resident * uint64(os.Getpagesize()), len(entries)}
}

// goroutines ends a Go process and returns how many goroutines it had.
func goroutines(t *testing.T, process *exec.Cmd, stderr *bytes.Buffer) int {
	t.Helper()
	require.NoError(t, process.Process.Signal(syscall.SIGQUIT))
	_ = process.Wait()
	return strings.Count(stderr.String(), "\ngoroutine ")
}

func median[T int | uint64](values []T) T {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}

// TestSoak puts, joins, reads, lists, deletes and aborts for a while. Each byte that is read is
// compared. Memory, open files and goroutines stay few.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	var stderr bytes.Buffer
	folder := t.TempDir()
	command := newGateway(t, "--folder", folder)
	url, process := run(t, func(address string) *exec.Cmd {
		process := command(address)
		process.Stderr = &stderr
		return process
	})
	client := newClient(url)
	makeBucket(t, client)
	ctx, stop := context.WithTimeout(t.Context(), *soakTime)
	defer stop()
	var all sync.WaitGroup
	var done atomic.Int64
	for i := range 16 {
		w := &worker{client: client, key: fmt.Sprintf("objects/%02d", i), r: rand.New(rand.NewPCG(24, uint64(i)))}
		all.Go(func() {
			for ctx.Err() == nil {
				if err := w.step(t.Context()); err != nil {
					t.Errorf("%s: %v", w.key, err)
					return
				}
				done.Add(1)
			}
		})
	}
	var memory []uint64
	var files []int
	for begin, each := time.Now(), min(10*time.Second, *soakTime/12); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-time.After(each):
			u := useOf(t, process)
			memory, files = append(memory, u.resident), append(files, u.files)
			t.Logf("%5.0f s: resident %4d MiB, %3d files, %d requests or uploads", time.Since(begin).Seconds(), u.resident>>20, u.files, done.Load())
		}
	}
	all.Wait()
	quarter := len(memory) / 4
	require.NotZero(t, quarter)
	first, last := median(memory[:quarter]), median(memory[len(memory)-quarter:])
	t.Logf("%d done; resident, median of the first quarter %d MiB, of the last %d MiB; open files %d, %d",
		done.Load(), first>>20, last>>20, median(files[:quarter]), median(files[len(files)-quarter:]))
	client.Options().HTTPClient.(*http.Client).CloseIdleConnections()
	requireNothingPlain(t, folder)
	time.Sleep(time.Second)
	n := goroutines(t, process, &stderr)
	t.Logf("%d goroutines at rest", n)
	require.Less(t, n, 100)
	if *soakTime > time.Minute {
		require.Less(t, last, first+first/5)
	}
}

// TestKilled kills gateways by SIGKILL while uploads in parts are sent and completed. Whatever was
// acknowledged is there as a whole. Of what was not, all or nothing is, and the next gateway goes on
// with it.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Run("a folder", func(t *testing.T) {
		folder := t.TempDir()
		killWhileUploading(t, folder, newGateway(t, "--folder", folder))
	})
	t.Run("in front of S3", func(t *testing.T) {
		folder := t.TempDir()
		behind := servePlain(t, folder, likeS3)
		t.Setenv("AWS_ACCESS_KEY_ID", access)
		t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
		killWhileUploading(t, folder, newGateway(t, "--upstream", "s3://?region="+region+"&endpoint="+behind))
	})
}

// attempt is an upload of one object.
type attempt struct {
	*worker
	content []byte
	upload  *s3.CompleteMultipartUploadInput // nil if it did not begin
	sent    bool                             // all of its parts
	done    bool                             // it was acknowledged
}

func killWhileUploading(t *testing.T, folder string, command func(address string) *exec.Cmd) {
	const atATime = 4
	r := rand.New(rand.NewPCG(9, 9))
	whole := make(map[string][]byte) // what must be there
	var acknowledged, resumed, lost int
	for n := range *kills {
		url, process := run(t, command)
		client := newClient(url)
		if n == 0 {
			makeBucket(t, client)
		}
		var all sync.WaitGroup
		attempts := make([]*attempt, atATime)
		begun := make(chan struct{}, atATime)
		for i := range attempts {
			a := &attempt{worker: &worker{client: client, key: fmt.Sprintf("objects/%d-%d", n, i), r: rand.New(rand.NewPCG(uint64(n), uint64(i)))}}
			a.content = a.fresh(11<<20 + a.r.IntN(1<<20))
			attempts[i] = a
			all.Go(func() {
				var err error
				a.upload, err = a.begin(t.Context(), a.content)
				begun <- struct{}{}
				if a.sent = err == nil; !a.sent {
					return
				}
				_, err = client.CompleteMultipartUpload(t.Context(), a.upload)
				a.done = err == nil
			})
		}
		if r.IntN(4) > 0 { // mostly while they are completed
			<-begun
		}
		time.Sleep(time.Duration(r.IntN(400)) * time.Millisecond)
		require.NoError(t, process.Process.Kill())
		_ = process.Wait()
		all.Wait()

		url, process = run(t, command)
		client = newClient(url)
		for _, a := range attempts {
			a.client = client
			b, key := a.target()
			stored, err := a.read(t.Context())
			require.NoError(t, err)
			switch {
			case a.done:
				acknowledged++
				require.True(t, bytes.Equal(a.content, stored), "%s was acknowledged", a.key)
			case stored != nil:
				lost++ // the answer alone
				require.True(t, bytes.Equal(a.content, stored), "%s is there in part", a.key)
			}
			switch {
			case a.sent:
				_, err := client.CompleteMultipartUpload(t.Context(), a.upload)
				require.NoError(t, err, a.key)
				if stored, err = a.read(t.Context()); err == nil && !a.done {
					resumed++
				}
				require.NoError(t, err)
				require.True(t, bytes.Equal(a.content, stored), a.key)
				whole[a.key] = nil
			case a.upload != nil:
				_, err := client.AbortMultipartUpload(t.Context(), &s3.AbortMultipartUploadInput{Bucket: b, Key: key, UploadId: a.upload.UploadId})
				require.NoError(t, err, a.key)
			}
		}
		if n%20 == 19 || n == *kills-1 {
			list, err := client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String(bucket)})
			require.NoError(t, err)
			require.Len(t, list.Contents, len(whole))
			for _, o := range list.Contents {
				require.Contains(t, whole, *o.Key)
				_, err = client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: o.Key})
				require.NoError(t, err)
			}
			clear(whole)
			requireNothingPlain(t, folder)
		}
		require.NoError(t, process.Process.Kill())
		_ = process.Wait()
	}
	t.Logf("%d gateways killed, %d uploads: %d acknowledged, all whole; %d had lost their answer; %d were completed by the next gateway",
		*kills, *kills*atATime, acknowledged, lost, resumed)
}

// TestKilledWhileAChecksumIsAwaited kills gateways in front of S3 by SIGKILL while objects are put
// whose checksum comes behind them. Whatever is to be seen is whole and has its checksum.
func TestKilledWhileAChecksumIsAwaited(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const atATime = 4
	folder := t.TempDir()
	behind := servePlain(t, folder, likeS3)
	t.Setenv("AWS_ACCESS_KEY_ID", access)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	command := newGateway(t, "--upstream", "s3://?region="+region+"&endpoint="+behind)
	r := rand.New(rand.NewPCG(3, 3))
	var acknowledged, lost, left int
	sums := make(map[string][sha256.Size]byte) // of all contents, by their names
	// take reads an object, checks that it is whole, and deletes it. It reports whether there was one.
	take := func(client *s3.Client, name string) bool {
		out, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String(name), ChecksumMode: "ENABLED"})
		if _, missing := errors.AsType[*types.NoSuchKey](err); missing {
			return false
		}
		require.NoError(t, err)
		stored, err := io.ReadAll(out.Body)
		require.NoError(t, err)
		require.NoError(t, out.Body.Close())
		require.Equal(t, sums[name], sha256.Sum256(stored), name)
		require.Equal(t, crc32Of(stored), aws.ToString(out.ChecksumCRC32), name)
		_, err = client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: aws.String(name)})
		require.NoError(t, err)
		return true
	}
	for n := range *kills {
		url, process := run(t, command)
		if n == 0 {
			makeBucket(t, newClient(url))
		}
		var all sync.WaitGroup
		contents, done := make([][]byte, atATime), make([]bool, atATime)
		name := func(i int) string { return fmt.Sprintf("objects/%d-%d", n, i) }
		for i := range contents {
			contents[i] = contentOf(uint64(n*atATime+i), 9<<20+r.IntN(1<<20))
			sums[name(i)] = sha256.Sum256(contents[i])
			all.Go(func() {
				status, _, err := (&connection{address: strings.TrimPrefix(url, "http://")}).send(withTrailer(name(i), contents[i]))
				done[i] = err == nil && status == http.StatusOK
			})
		}
		time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
		require.NoError(t, process.Process.Kill())
		_ = process.Wait()
		all.Wait()

		url, process = run(t, command)
		client := newClient(url)
		for i := range contents {
			switch stored := take(client, name(i)); {
			case done[i]:
				require.True(t, stored, "%s was acknowledged", name(i))
				acknowledged++
			case stored:
				lost++
			}
		}
		// The S3 behind may have ended a request of the killed gateway only now.
		list, err := client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String(bucket)})
		require.NoError(t, err)
		for _, o := range list.Contents {
			require.Contains(t, sums, aws.ToString(o.Key))
			if take(client, aws.ToString(o.Key)) {
				lost++
			}
		}
		require.NoError(t, process.Process.Kill())
		_ = process.Wait()
	}
	hidden, err := filepath.Glob(filepath.Join(folder, bucket, ".pikokms/uploads/*/*"))
	require.NoError(t, err)
	for _, file := range hidden { // which a sweep deletes once it is a day old
		require.Equal(t, "whole", filepath.Base(file))
		left++
	}
	requireNothingPlain(t, folder)
	t.Logf("%d gateways killed, %d puts: %d acknowledged, all whole with their checksum; %d had lost their answer; of %d something hidden is left",
		*kills, *kills*atATime, acknowledged, lost, left)
}

// read returns what is stored of an object, or nil.
func (a *attempt) read(ctx context.Context) ([]byte, error) {
	b, key := a.target()
	out, err := a.client.GetObject(ctx, &s3.GetObjectInput{Bucket: b, Key: key})
	if _, missing := errors.AsType[*types.NoSuchKey](err); missing {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer out.Body.Close()
	return io.ReadAll(out.Body)
}

// halfWay is a content that waits half-way.
type halfWay struct {
	first, rest io.Reader
	reached     *sync.WaitGroup
	goOn        <-chan struct{}
}

func (h *halfWay) Read(p []byte) (int, error) {
	n, err := h.first.Read(p)
	if err != io.EOF {
		return n, err
	}
	if h.reached != nil {
		h.reached.Done()
		h.reached = nil
		<-h.goOn
	}
	return h.rest.Read(p)
}

// TestConnections has many clients at a time, all half-way through a put, and then through a get.
func TestConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	folder := t.TempDir()
	url, process := run(t, newGateway(t, "--folder", folder))
	client := newClient(url)
	makeBucket(t, client)
	idle := useOf(t, process)
	half := func(of int) []byte { return contentOf(uint64(of), 256<<10) }
	each := func(what string, do func(i int, reached *sync.WaitGroup, goOn <-chan struct{}) error) {
		var reached, all sync.WaitGroup
		goOn := make(chan struct{})
		reached.Add(*connections)
		for i := range *connections {
			all.Go(func() {
				if err := do(i, &reached, goOn); err != nil {
					t.Errorf("%s %d: %v", what, i, err)
				}
			})
		}
		reached.Wait()
		now := useOf(t, process)
		for begin := time.Now(); now.files < idle.files+*connections && time.Since(begin) < 10*time.Second; now = useOf(t, process) {
			time.Sleep(100 * time.Millisecond) // what was sent arrives
		}
		t.Logf("%d half-way through a %s: resident %d MiB, %d KiB for each; %d files", *connections, what, now.resident>>20, (now.resident-idle.resident)>>10/uint64(*connections), now.files)
		close(goOn)
		all.Wait()
	}
	each("put", func(i int, reached *sync.WaitGroup, goOn <-chan struct{}) error {
		content, length := half(i), int64(512<<10)
		body := &halfWay{bytes.NewReader(content), bytes.NewReader(content), reached, goOn}
		_, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String(fmt.Sprint(i)), Body: body, ContentLength: &length})
		return err
	})
	each("get", func(i int, reached *sync.WaitGroup, goOn <-chan struct{}) error {
		out, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String(fmt.Sprint(i))})
		if err != nil {
			reached.Done()
			return err
		}
		defer out.Body.Close()
		content := half(i)
		got := make([]byte, 2*len(content))
		_, err = io.ReadFull(out.Body, got[:len(content)])
		reached.Done()
		<-goOn
		if _, failed := io.ReadFull(out.Body, got[len(content):]); err == nil {
			err = failed
		}
		if err == nil && !bytes.Equal(got, append(content, content...)) {
			err = errors.New("what is read was not put")
		}
		return err
	})
	requireNothingPlain(t, folder)
}
