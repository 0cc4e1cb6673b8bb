package soak

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/service"
)

var (
	duration = flag.Duration("soak.duration", time.Second, "how long TestSoak runs")
	streams  = flag.Int("soak.streams", 1000, "how many streams TestSoak has at a time")
)

// content is the content of an object: so many bytes of a generator of this seed.
type content struct {
	seed uint64
	size int
}

func (c content) bytes() []byte {
	b := make([]byte, c.size)
	var seed [32]byte
	seed[0], seed[1], seed[2], seed[3] = byte(c.seed), byte(c.seed>>8), byte(c.seed>>16), byte(c.seed>>24)
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
	copy(b[c.size/2:], b[:c.size/4])     // so that compression finds something
	return b
}

// soak is a host under load, on a storage and a key service that fail.
type soak struct {
	host   *pikokms.Host
	memory *adversary.Memory
	server *kmstest.Server
	http   *http.Transport
	faults *adversary.Calls
	faulty atomic.Bool

	underWay, most                atomic.Int64
	done, failed, dropped         atomic.Int64
	bytesIn, bytesOut, keyOutages atomic.Int64
}

func newSoak(t *testing.T) *soak {
	s := &soak{memory: adversary.NewMemory(), server: kmstest.NewServer(t), http: &http.Transport{MaxIdleConnsPerHost: 50}}
	s.faults = &adversary.Calls{Fails: func(int) bool { return s.faulty.Load() && rand.IntN(200) == 0 }}
	actions := []kmstest.Action{kmstest.Error("KMSInternalException", "out of order"), kmstest.Throttle(), kmstest.Drop(), kmstest.Truncate(), kmstest.Delay(20 * time.Millisecond)}
	if *duration > time.Minute {
		actions = append(actions, kmstest.HalfOpen()) // which takes callers as long as they wait
	}
	for _, action := range actions {
		s.server.Inject(kmstest.Fault{Do: action, When: func(kmstest.Request) bool { return s.faulty.Load() && rand.IntN(200) == 0 }})
	}
	options := []pikokms.Option{
		pikokms.WithStorage(s.faults.Storage(s.memory)), pikokms.WithDataKeyCache(service.CacheLimits{MaxMessages: 30, MaxAge: time.Second}),
		pikokms.WithEnabledTransformers(compress.ZstdSeekable), pikokms.WithDefaultCryptoProvider("kms 0"), pikokms.BindObjectName("soak"),
	}
	for i := range 2 {
		key := s.server.CreateKey(kmstest.Key{})
		client := kms.New(kms.Options{
			Region: key.Region, BaseEndpoint: aws.String(s.server.URL), Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
			HTTPClient: &http.Client{Transport: s.http, Timeout: 10 * time.Second}, Retryer: aws.NopRetryer{},
		})
		p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: client})
		require.NoError(t, err)
		options = append(options, pikokms.WithCryptoProvider(fmt.Sprint("kms ", i), p))
	}
	p, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{1}, 32)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	s.host, err = pikokms.New(append(options, pikokms.WithCryptoProvider("local", p))...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.host.Close()) })
	return s
}

// worker has one object, which nobody else writes.
type worker struct {
	*soak
	key      string
	r        *rand.Rand
	possible []*content // what the object can be; nil for no object
}

// expected reports whether an error is one that the faults of this test explain.
func expected(err error) bool {
	for _, known := range []error{
		adversary.ErrFault, adversary.ErrLost, io.ErrUnexpectedEOF, context.Canceled, context.DeadlineExceeded, provider.ErrProviderUnavailable,
		service.ErrBreakerOpen, fs.ErrNotExist, pikokms.ErrChanged, io.ErrShortWrite,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// step does one thing with the worker's object, and checks what comes of it.
func (w *worker) step(ctx context.Context) error {
	w.most.Store(max(w.most.Load(), w.underWay.Add(1)))
	defer w.underWay.Add(-1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if w.faulty.Load() && w.r.IntN(50) == 0 {
		timer := time.AfterFunc(time.Duration(w.r.IntN(5))*time.Millisecond, cancel)
		defer timer.Stop()
	}
	var err error
	switch w.r.IntN(10) {
	case 0, 1, 2, 3:
		err = w.put(ctx)
	case 4, 5, 6:
		err = w.get(ctx)
	case 7:
		err = w.ranges(ctx)
	case 8:
		err = w.host.Rewrap(ctx, w.key)
	default:
		err = w.host.Delete(ctx, w.key)
		if err == nil {
			w.possible = []*content{nil}
		}
	}
	w.done.Add(1)
	if err == nil {
		return nil
	}
	w.failed.Add(1)
	if errors.Is(err, provider.ErrProviderUnavailable) {
		w.keyOutages.Add(1)
	}
	if !expected(err) {
		return fmt.Errorf("%s: %w", w.key, err)
	}
	return nil
}

// slow gives other streams their turn at each read, so that all are under way at a time. An upload
// takes 50 reads at most.
type slow struct{ io.Reader }

func (s slow) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return s.Reader.Read(p)
}

func (w *worker) put(ctx context.Context) error {
	c := &content{uint64(w.r.Uint32()), 1 << w.r.IntN(19)}
	c.size += w.r.IntN(c.size)
	if w.r.IntN(300) == 0 {
		c.size += 3 << 20 // enough for several cores
	}
	source := &adversary.Source{Rest: c.bytes(), Piece: 1 + c.size/50 + w.r.IntN(100_000), Ending: adversary.Ending{Err: io.EOF}}
	if w.faulty.Load() && w.r.IntN(10) == 0 {
		source.Rest = source.Rest[:w.r.IntN(c.size)]
		source.Ending = adversary.Ending{Err: adversary.ErrLost, WithData: w.r.IntN(2) == 0, ForEver: w.r.IntN(2) == 0}
	}
	whole := source.Ending.Err == io.EOF
	err := w.host.Put(ctx, w.key, slow{source})
	switch {
	case err == nil && !whole:
		return errors.New("an upload whose source failed succeeded")
	case err == nil:
		w.possible = []*content{c}
		w.bytesIn.Add(int64(c.size))
	case whole:
		w.possible = append(w.possible, c) // the answer may have been lost
	}
	return err
}

// is returns an error unless got is one of the possible contents, which is then the only one.
func (w *worker) is(got []byte) error {
	for _, c := range w.possible {
		if c != nil && c.size == len(got) && bytes.Equal(c.bytes(), got) {
			w.possible = []*content{c}
			w.bytesOut.Add(int64(len(got)))
			return nil
		}
	}
	return errors.New("what is read was not put")
}

func (w *worker) get(ctx context.Context) error {
	r, err := w.host.Get(ctx, w.key)
	if err != nil {
		return w.absent(err)
	}
	if w.r.IntN(10) == 0 { // dropped half-way, closed or not
		w.dropped.Add(1)
		_, _ = io.CopyN(io.Discard, r, 1000)
		if w.r.IntN(2) == 0 {
			return r.Close()
		}
		return nil
	}
	got, err := io.ReadAll(slow{r})
	if err := errors.Join(err, r.Close()); err != nil {
		for _, c := range w.possible {
			if c != nil && bytes.HasPrefix(c.bytes(), got) {
				return err
			}
		}
		return errors.New("before an error, bytes were released that nobody put")
	}
	return w.is(got)
}

// absent checks that an object that is said not to exist can be absent.
func (w *worker) absent(err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, c := range w.possible {
		if c == nil {
			w.possible = []*content{nil}
			return nil
		}
	}
	return errors.New("an object that was stored is gone")
}

func (w *worker) ranges(ctx context.Context) error {
	o, err := w.host.Open(ctx, w.key)
	if err != nil {
		return w.absent(err)
	}
	defer o.Close()
	for range 3 {
		from := w.r.Int64N(o.Size() + 1)
		p := make([]byte, w.r.IntN(10_000))
		n, err := o.ReadAt(p, from)
		if err != nil && err != io.EOF {
			return err
		}
		found := false
		for _, c := range w.possible {
			if c != nil && int64(c.size) == o.Size() && bytes.Equal(c.bytes()[from:from+int64(n)], p[:n]) {
				found = true
			}
		}
		if !found {
			return errors.New("a range was read that nobody put")
		}
	}
	return nil
}

// use is what the process has at a moment of rest.
type use struct {
	heap, resident uint64 // bytes
	goroutines     int
	files          int
}

func (s *soak) rest() use {
	s.http.CloseIdleConnections()
	s.server.Reset() // it remembers each call
	var u use
	runtime.GC() // a sync.Pool is empty after the second one
	for range 50 {
		runtime.GC()
		u.goroutines = runtime.NumGoroutine()
		time.Sleep(10 * time.Millisecond)
		if runtime.NumGoroutine() >= u.goroutines {
			break
		}
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	u.heap = stats.HeapAlloc
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		var size, resident uint64
		_, _ = fmt.Sscan(string(text), &size, &resident)
		u.resident = resident * uint64(os.Getpagesize())
	}
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil {
		u.files = len(entries)
	}
	return u
}

// TestSoak has 1,000 streams at a time, while sources, storage and KMS fail, callers give up and
// readers are dropped. At each rest all objects are what was put, memory is as flat as goroutines
// are few.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	s := newSoak(t)
	if race.Enabled && *duration < time.Minute {
		*streams /= 4
	}
	workers := make([]*worker, *streams)
	for i := range workers {
		workers[i] = &worker{soak: s, key: fmt.Sprintf("objects/%d", i), r: rand.New(rand.NewPCG(16, uint64(i))), possible: []*content{nil}}
	}
	begin := time.Now()
	epoch := max(time.Second/2, min(20*time.Second, *duration/6))
	var uses []use
	for turn := 0; time.Since(begin) < *duration || turn < 3; turn++ {
		s.faulty.Store(true)
		until := time.Now().Add(epoch)
		failures := make([]error, len(workers))
		var all sync.WaitGroup
		for i, w := range workers {
			all.Go(func() {
				for failures[i] == nil && time.Now().Before(until) {
					failures[i] = w.step(t.Context())
				}
			})
		}
		if turn%2 == 1 {
			require.NoError(t, s.host.SetDefaultCryptoProvider([]string{"kms 1", "local", "kms 0"}[turn/2%3]))
		}
		all.Wait()
		require.NoError(t, errors.Join(failures...))
		s.faulty.Store(false)
		s.account(t, workers)
		uses = append(uses, s.rest())
		t.Logf("%6.0f s: heap %5.1f MiB, resident %5.1f MiB, %3d goroutines, %3d files, %9d operations",
			time.Since(begin).Seconds(), mebi(uses[turn].heap), mebi(uses[turn].resident), uses[turn].goroutines, uses[turn].files, s.done.Load())
	}
	t.Logf("%d streams at a time at most; %d operations: %d failed (%d by KMS), %d dropped half-way; %.1f GiB in, %.1f GiB out, each byte compared",
		s.most.Load(), s.done.Load(), s.failed.Load(), s.keyOutages.Load(), s.dropped.Load(), gibi(s.bytesIn.Load()), gibi(s.bytesOut.Load()))
	require.NotZero(t, s.failed.Load())
	require.Greater(t, s.most.Load(), int64(*streams)*9/10)
	writeHeapProfile(t)
	flat(t, uses)
}

// writeHeapProfile writes what is in memory, if PIKOKMS_SOAK_PROFILE names a file.
func writeHeapProfile(t *testing.T) {
	path := os.Getenv("PIKOKMS_SOAK_PROFILE")
	if path == "" {
		return
	}
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, pprof.WriteHeapProfile(f))
}

func mebi(n uint64) float64 { return float64(n) / (1 << 20) }
func gibi(n int64) float64  { return float64(n) / (1 << 30) }

// account reads every object, compares it, and finds nothing else in the storage. Then it deletes
// all.
func (s *soak) account(t *testing.T, workers []*worker) {
	t.Helper()
	s.settle(t)
	want := make(map[string]bool)
	for _, w := range workers {
		require.NoError(t, w.getAll(t.Context()))
		if w.possible[0] != nil {
			want[w.key] = true
			require.NoError(t, s.host.Delete(t.Context(), w.key))
			w.possible = []*content{nil}
		}
	}
	for key := range s.memory.List(t.Context(), "") {
		t.Fatalf("%s is left in the storage", key)
	}
	require.NotEmpty(t, want)
}

func (w *worker) getAll(ctx context.Context) error {
	r, err := w.host.Get(ctx, w.key)
	if err != nil {
		return w.absent(err)
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	return w.is(got)
}

// settle waits until the circuit breakers let calls pass again.
func (s *soak) settle(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(time.Minute) // the breaker is open for 30 s
	for name := range strings.SplitSeq("kms 1,local,kms 0", ",") {
		require.NoError(t, s.host.SetDefaultCryptoProvider(name))
		for {
			err := s.host.Put(t.Context(), "settle", strings.NewReader("x"))
			if err == nil {
				break
			}
			require.ErrorIs(t, err, service.ErrBreakerOpen)
			require.True(t, time.Now().Before(deadline), err)
			time.Sleep(100 * time.Millisecond)
		}
	}
	require.NoError(t, s.host.Delete(t.Context(), "settle"))
}

// flat checks that the last third of the rests has no more than the first third, which is warm from
// the second rest on.
func flat(t *testing.T, uses []use) {
	t.Helper()
	third := max(1, len(uses)/3)
	mean := func(of []use, what func(use) uint64) uint64 {
		var sum uint64
		for _, u := range of {
			sum += what(u)
		}
		return sum / uint64(len(of))
	}
	first, last := uses[min(1, len(uses)-1):min(1, len(uses)-1)+third], uses[len(uses)-third:]
	for name, what := range map[string]func(use) uint64{
		"heap":       func(u use) uint64 { return u.heap },
		"goroutines": func(u use) uint64 { return uint64(u.goroutines) << 20 },
		"files":      func(u use) uint64 { return uint64(u.files) << 20 },
	} {
		before, after := mean(first, what), mean(last, what)
		t.Logf("%s: %.1f at first, %.1f at last", name, mebi(before), mebi(after))
		slack := uint64(8 << 20)
		if race.Enabled {
			slack *= 2
		}
		require.LessOrEqual(t, after, before+before/10+slack, name)
	}
}
