package compress_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/race"
)

var bg = context.Background()

// doors are all ways to use a transformer.
var doors = map[string]func(s *compress.Transformer, src io.Reader) ([]byte, error){
	"Transform": func(s *compress.Transformer, src io.Reader) ([]byte, error) {
		r, err := s.Transform(bg, src, nil)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	},
	"Reverse, Read": func(s *compress.Transformer, src io.Reader) ([]byte, error) {
		r, err := s.Reverse(bg, src, nil)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(onlyReader{r})
	},
	"Reverse, WriteTo": func(s *compress.Transformer, src io.Reader) ([]byte, error) {
		r, err := s.Reverse(bg, src, nil)
		if err != nil {
			return nil, err
		}
		var dst bytes.Buffer
		_, err = r.(io.WriterTo).WriteTo(onlyWriter{&dst})
		return dst.Bytes(), err
	},
}

// streamOfTwo returns a compressed stream of several frames, streams or blocks, and a place between
// two of them where it could also end.
func streamOfTwo(t testing.TB, format string, part []byte) (stored []byte, between int) {
	t.Helper()
	var out bytes.Buffer
	for range 2 {
		between = out.Len()
		var w io.WriteCloser
		switch format {
		case compress.Zstd:
			z, err := zstd.NewWriter(&out)
			require.NoError(t, err)
			w = z
		case compress.Gzip:
			w = gzip.NewWriter(&out)
		case compress.S2:
			w = s2.NewWriter(&out)
		default:
			return transform(t, newTransformer(t, format, 0), bytes.NewReader(append(bytes.Clone(part), part...))), 0
		}
		_, err := w.Write(part)
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	return out.Bytes(), between
}

// TestConnectionLostAnywhere loses the connection at every byte of short streams, and at the
// places of long ones where the stream could also end.
func TestConnectionLostAnywhere(t *testing.T) {
	race.SkipShort(t)
	cases := 0
	eachFormat(t, func(t *testing.T, format string) {
		s := newTransformer(t, format, 0)
		for _, size := range []int{60, 300_000} {
			if size > 1000 && (testing.Short() || race.Enabled && format != compress.ZstdSeekable) {
				continue
			}
			plain := noise(2 * size)
			stored, between := streamOfTwo(t, format, plain[:size])
			for door, run := range doors {
				in := stored
				if door == "Transform" {
					in = plain
				}
				for cut := 0; cut <= len(in); cut++ {
					if near := cut < 30 || cut > len(in)-30 || between-3 < cut && cut < between+20; size > 1000 && !near {
						continue
					}
					for name, ending := range adversary.Losses {
						if size > 1000 && ending.Err != adversary.ErrLost {
							continue
						}
						_, err := run(s, &adversary.Source{Rest: in[:cut], Ending: ending})
						require.ErrorIs(t, err, ending.Err, "%s, %d of %d bytes, error %s", door, cut, len(in), name)
						require.NotErrorIs(t, err, compress.ErrCorrupt)
						cases++
					}
				}
			}
		}
	})
	t.Logf("%d connections lost", cases)
}

// An HTTP client hangs up between two zstd frames of its upload: 100,000 of 300,000 bytes.
func TestClientHangsUpBetweenTwoFrames(t *testing.T) {
	encoder, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	var body []byte
	for range 3 {
		body = encoder.EncodeAll(noise(100_000), body)
	}
	type result struct {
		n   int64
		err error
	}
	results := make(chan result, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		plain, err := newTransformer(t, compress.Zstd, 0).Reverse(r.Context(), r.Body, nil)
		if err != nil {
			results <- result{0, err}
			return
		}
		n, err := io.Copy(io.Discard, plain)
		results <- result{n, err}
	}))
	defer server.Close()
	connection, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	_, err = fmt.Fprintf(connection, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %s\r\n\r\n", strconv.Itoa(len(body)))
	require.NoError(t, err)
	_, err = connection.Write(body[:len(body)/3])
	require.NoError(t, err)
	require.NoError(t, connection.Close())
	select {
	case r := <-results:
		require.Error(t, r.err, "%d bytes of 300,000 passed for the whole", r.n)
		require.NotErrorIs(t, r.err, compress.ErrCorrupt)
	case <-time.After(time.Minute):
		t.Fatal("the server waits for ever")
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

type lying int // how many bytes it adds to those that it has room for

func (l lying) Read(p []byte) (int, error)  { return len(p)*min(1, int(l)+1) + int(l), nil }
func (l lying) Write(p []byte) (int, error) { return len(p)*min(1, int(l)+1) + int(l), nil }

// A source that returns nothing, or an impossible count, is an error, after any number of bytes.
func TestSourcesThatBreakTheReadersContract(t *testing.T) {
	race.SkipShort(t)
	eachFormat(t, func(t *testing.T, format string) {
		s := newTransformer(t, format, 0)
		original := noise(2 << 20)
		stored := transform(t, s, bytes.NewReader(original))
		for door, run := range doors {
			in := stored
			if door == "Transform" {
				in = original
			}
			for _, after := range []int{0, 2, 70_000, 3 << 19} {
				start := func() io.Reader { return bytes.NewReader(in[:after]) }
				_, err := run(s, io.MultiReader(start(), stuck{}))
				require.ErrorIs(t, err, io.ErrNoProgress, "%s after %d bytes", door, after)
				for _, by := range []lying{1, -1} {
					_, err := run(s, io.MultiReader(start(), by))
					require.ErrorContains(t, err, "the source says it read", "%s after %d bytes", door, after)
				}
			}
		}
	})
}

func TestDestinationsThatBreakTheWritersContract(t *testing.T) {
	race.SkipShort(t)
	eachFormat(t, func(t *testing.T, format string) {
		for _, parallelism := range []int{1, 3} {
			s := newParallel(t, format, 0, parallelism)
			stored := transform(t, s, bytes.NewReader(noise(3<<20)))
			for _, by := range []lying{1, -1} {
				_, err := writeTo(t, s, by, bytes.NewReader(stored))
				require.ErrorContains(t, err, "the destination says it wrote")
			}
			_, err := writeTo(t, s, &failing{left: 1000}, bytes.NewReader(stored))
			require.ErrorIs(t, err, io.ErrShortWrite)
			_, err = writeTo(t, s, &failing{left: 1000, err: io.EOF}, bytes.NewReader(stored))
			require.ErrorIs(t, err, io.EOF)
			require.False(t, err == io.EOF, "it would pass for the stream's end")
		}
	})
}

type lyingAt struct {
	io.ReaderAt
	by int
}

func (l lyingAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := l.ReaderAt.ReadAt(p, off)
	return n + l.by, err
}

// A storage that says it read more than it was asked for, or less without an error, is an error.
func TestStorageThatBreaksTheReaderAtsContract(t *testing.T) {
	stored := transform(t, newTransformer(t, compress.ZstdSeekable, 0), bytes.NewReader(noise(1000)))
	for by, text := range map[int]string{1: "the source says it read", -1: "without an error"} {
		_, err := openSeekableOf(lyingAt{bytes.NewReader(stored), by}, int64(len(stored)), 0)
		require.ErrorContains(t, err, text)
		require.NotErrorIs(t, err, compress.ErrCorrupt)
	}
}
