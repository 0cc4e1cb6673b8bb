package compress_test

import (
	"bytes"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/internal/cores"
	"piko.sh/pikokms/internal/frame"
)

// mostGoroutines runs streams side by side, and returns the most goroutines that there are
// meanwhile beside those that call them.
func mostGoroutines(t *testing.T, streams int, run func(looking func(io.Reader) io.Reader) error) int {
	t.Helper()
	before := runtime.NumGoroutine()
	var most atomic.Int64
	look := func() {
		now := int64(runtime.NumGoroutine() - before)
		for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
		}
	}
	looking := func(r io.Reader) io.Reader {
		return readerFunc(func(p []byte) (int, error) {
			look()
			defer look()
			return r.Read(p)
		})
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
				look()
			}
		}
	}()
	errs := make([]error, streams)
	var all sync.WaitGroup
	for i := range streams {
		all.Go(func() { errs[i] = run(looking) })
	}
	all.Wait()
	close(stop)
	<-stopped
	for _, err := range errs {
		require.NoError(t, err)
	}
	return int(most.Load()) - streams - 1 // the one that looks
}

// TestGoroutinesOfStreamsThatCompressAndEncrypt counts goroutines on eight cores. Encryption and
// compression share eight beside the callers' own. There may be more that mostly wait: one that
// writes for each stream that encrypts on several cores (at most four), one that writes for s2, and
// one in each encoder of zstd with two goroutines.
func TestGoroutinesOfStreamsThatCompressAndEncrypt(t *testing.T) {
	const ncores = 8
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(ncores))
	original := noise(4 << 20)
	eachFormat(t, func(t *testing.T, format string) {
		s, c := newTransformer(t, format, 0), frames(t, 0)
		sealed, err := io.ReadAll(frame.NewSealReader(bytes.NewReader(transform(t, s, bytes.NewReader(original))), c))
		require.NoError(t, err)
		upload := func(looking func(io.Reader) io.Reader) error {
			r, err := s.Transform(t.Context(), looking(bytes.NewReader(original)), nil)
			if err != nil {
				return err
			}
			_, err = frame.NewSealReader(looking(r), c).WriteTo(onlyWriter{io.Discard})
			return err
		}
		download := func(looking func(io.Reader) io.Reader) error {
			r, err := s.Reverse(t.Context(), frame.NewOpenReader(looking(bytes.NewReader(sealed)), c), nil)
			if err != nil {
				return err
			}
			_, err = io.Copy(onlyWriter{io.Discard}, r)
			return err
		}
		waiting := 1
		if format == compress.Zstd {
			waiting = ncores
		}
		one := max(mostGoroutines(t, 1, upload), mostGoroutines(t, 1, download))
		many := max(mostGoroutines(t, 20, upload), mostGoroutines(t, 20, download))
		t.Logf("%d goroutines beside one caller, %d beside 20", one, many)
		require.LessOrEqual(t, one, ncores+1+1)
		require.LessOrEqual(t, many, ncores+ncores/2+waiting)
		if format != compress.Gzip {
			require.Positive(t, one)
		}
	})
	require.Equal(t, ncores, cores.Take(0, 100), "all cores were given back")
	cores.Give(ncores)
}

// TestDroppedStreamsGiveTheirCoresBack drops zstd streams half-way, each of which has taken a core.
func TestDroppedStreamsGiveTheirCoresBack(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	s := newTransformer(t, compress.Zstd, 0)
	for range 5 {
		r, err := s.Transform(t.Context(), zeros{}, nil)
		require.NoError(t, err)
		_, err = r.Read(make([]byte, 10))
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		runtime.GC()
		n := cores.Take(0, 100)
		cores.Give(n)
		return n == 4
	}, time.Minute, time.Millisecond)
}
