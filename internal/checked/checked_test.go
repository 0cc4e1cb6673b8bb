package checked_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/checked"
)

var errLost = errors.New("connection lost")

// answer is the result of one call of a source or destination.
type answer struct {
	n   int
	err error
}

// scripted gives its answers one after the other and then io.EOF. It counts its calls.
type scripted struct {
	answers []answer
	calls   int
}

func (s *scripted) Read([]byte) (int, error) {
	s.calls++
	if len(s.answers) == 0 {
		return 0, io.EOF
	}
	a := s.answers[0]
	s.answers = s.answers[1:]
	return a.n, a.err
}

func (s *scripted) Write(p []byte) (int, error) { return s.Read(p) }

func (s *scripted) ReadAt(p []byte, _ int64) (int, error) { return s.Read(p) }

func TestReader(t *testing.T) {
	empty := make([]answer, 100)
	tests := []struct {
		name    string
		answers []answer
		n       int // that ReadFull of 10 bytes gives
		err     error
		text    string
		calls   int
	}{
		{"gives all at once", []answer{{10, nil}}, 10, nil, "", 1},
		{"gives it in pieces", []answer{{3, nil}, {0, nil}, {7, nil}}, 10, nil, "", 3},
		{"ends with the last bytes", []answer{{10, io.EOF}}, 10, nil, "", 1},
		{"fails with the last bytes", []answer{{10, errLost}}, 10, nil, "", 1},
		{"ends before", []answer{{4, nil}}, 4, io.EOF, "", 2},
		{"ends with some bytes", []answer{{4, io.EOF}, {6, nil}}, 4, io.EOF, "", 1},
		{"fails once", []answer{{4, nil}, {0, errLost}}, 4, errLost, "", 2},
		{"fails with some bytes", []answer{{4, errLost}, {6, nil}}, 4, errLost, "", 1},
		{"breaks off", []answer{{4, nil}, {0, io.ErrUnexpectedEOF}}, 4, io.ErrUnexpectedEOF, "", 2},
		{"gives nothing for ever", append([]answer{{4, nil}}, empty...), 4, io.ErrNoProgress, "", 101},
		{"gives nothing for a while", append(empty[:99:99], answer{10, nil}), 10, nil, "", 100},
		{"says too much", []answer{{11, nil}}, 0, nil, "says it read 11 bytes into 10: a fault of *checked_test.scripted", 1},
		{"says less than nothing", []answer{{4, nil}, {-1, nil}}, 4, nil, "says it read -1 bytes into 6", 2},
		{"says too much and fails", []answer{{11, errLost}}, 0, nil, "says it read 11 bytes into 10", 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			src := &scripted{answers: test.answers}
			r := checked.Reader{Source: src}
			n, err := r.ReadFull(make([]byte, 10))
			require.Equal(t, test.n, n)
			if test.text != "" {
				require.ErrorContains(t, err, test.text)
			} else {
				require.Equal(t, test.err, err)
			}
			require.Equal(t, test.calls, src.calls)
		})
	}
	t.Logf("%d sources", len(tests))
}

// A source is not asked again once it has failed or ended, whatever it would say.
func TestReaderDoesNotAskAgain(t *testing.T) {
	for _, first := range []answer{{0, errLost}, {3, errLost}, {0, io.EOF}, {3, io.EOF}, {99, nil}} {
		src := &scripted{answers: []answer{first, {5, nil}}}
		r := checked.Reader{Source: src}
		n, err := r.Read(make([]byte, 10))
		if first.n == 3 {
			require.Equal(t, 3, n)
			require.NoError(t, err)
		}
		for range 3 {
			n, again := r.Read(make([]byte, 10))
			require.Zero(t, n)
			require.Equal(t, r.Err(), again)
			require.Error(t, again)
		}
		require.Equal(t, 1, src.calls)
	}
}

type panicking struct{ calls int }

func (p *panicking) Read([]byte) (int, error) {
	p.calls++
	panic("source")
}

func TestReaderDoesNotAskAgainAfterAPanic(t *testing.T) {
	src := &panicking{}
	r := checked.Reader{Source: src}
	require.PanicsWithValue(t, "source", func() { _, _ = r.Read(make([]byte, 1)) })
	_, err := r.Read(make([]byte, 1))
	require.ErrorContains(t, err, "panicked")
	require.Equal(t, 1, src.calls)
}

func TestReaderEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	src := &scripted{answers: []answer{{1, nil}, {1, nil}, {1, nil}}}
	r := checked.Reader{Context: ctx, Source: src}
	_, err := r.Read(make([]byte, 1))
	require.NoError(t, err)
	cancel()
	_, err = r.Read(make([]byte, 1))
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, src.calls)
}

func TestReadOfNothingAsksNobody(t *testing.T) {
	src := &scripted{answers: []answer{{0, errLost}}}
	r := checked.Reader{Source: src}
	n, err := r.Read(nil)
	require.Zero(t, n)
	require.NoError(t, err)
	require.Zero(t, src.calls)
}

func TestReadAtLeastOfAShortBuffer(t *testing.T) {
	r := checked.Reader{Source: &scripted{answers: []answer{{2, nil}}}}
	n, err := r.ReadAtLeast(make([]byte, 2), 3)
	require.Equal(t, 2, n)
	require.Equal(t, io.ErrShortBuffer, err)
}

func TestReadAt(t *testing.T) {
	for _, test := range []struct {
		answer answer
		n      int
		err    error
		text   string
	}{
		{answer{10, nil}, 10, nil, ""},
		{answer{10, io.EOF}, 10, nil, ""},
		{answer{4, io.EOF}, 4, io.EOF, ""},
		{answer{4, errLost}, 4, errLost, ""},
		{answer{4, nil}, 4, nil, "read 4 bytes of 10 without an error: a fault of *checked_test.scripted"},
		{answer{11, nil}, 0, nil, "says it read 11 bytes into 10"},
		{answer{-1, errLost}, 0, nil, "says it read -1 bytes into 10"},
	} {
		t.Run(fmt.Sprint(test.answer), func(t *testing.T) {
			n, err := checked.ReadAt(&scripted{answers: []answer{test.answer}}, make([]byte, 10), 0)
			require.Equal(t, test.n, n)
			if test.text != "" {
				require.ErrorContains(t, err, test.text)
			} else {
				require.Equal(t, test.err, err)
			}
		})
	}
}

func TestWrite(t *testing.T) {
	for _, test := range []struct {
		answer answer
		n      int
		err    error
		text   string
	}{
		{answer{10, nil}, 10, nil, ""},
		{answer{10, errLost}, 10, errLost, ""},
		{answer{4, errLost}, 4, errLost, ""},
		{answer{4, nil}, 4, io.ErrShortWrite, ""},
		{answer{0, nil}, 0, io.ErrShortWrite, ""},
		{answer{11, nil}, 0, nil, "says it wrote 11 bytes of 10: a fault of *checked_test.scripted"},
		{answer{-1, nil}, 0, nil, "says it wrote -1 bytes of 10"},
		{answer{4, io.EOF}, 4, nil, "the destination takes no more: EOF"},
	} {
		t.Run(fmt.Sprint(test.answer), func(t *testing.T) {
			n, err := checked.Write(&scripted{answers: []answer{test.answer}}, make([]byte, 10))
			require.Equal(t, test.n, n)
			if test.text != "" {
				require.ErrorContains(t, err, test.text)
				require.False(t, err == io.EOF, "a bare io.EOF passes for the source's end")
			} else {
				require.Equal(t, test.err, err)
			}
		})
	}
}

// readerFrom is a destination that reads for itself, and says that it has ended.
type readerFrom struct{ io.Writer }

func (readerFrom) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(io.Discard, r)
	if err == nil {
		err = io.EOF
	}
	return n, err
}

func TestCopy(t *testing.T) {
	for _, test := range []struct {
		name    string
		src     []answer
		dst     io.Writer
		written int64
		err     error
	}{
		{"the whole", []answer{{10, nil}, {5, io.EOF}}, io.Discard, 15, nil},
		{"source fails once", []answer{{10, nil}, {5, errLost}, {7, nil}}, io.Discard, 15, errLost},
		{"source fails once, as read by the destination", []answer{{10, errLost}, {7, nil}}, readerFrom{}, 10, errLost},
		{"destination is full", []answer{{10, nil}}, &scripted{answers: []answer{{4, errLost}}}, 4, errLost},
		{"destination says that it has ended", []answer{{10, nil}}, &scripted{}, 0, io.EOF},
		{"destination that reads says that it has ended", []answer{{10, nil}}, readerFrom{}, 10, io.EOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, err := checked.Copy(test.dst, &checked.Reader{Source: &scripted{answers: test.src}})
			require.Equal(t, test.written, n)
			require.ErrorIs(t, err, test.err)
			require.False(t, err == io.EOF)
		})
	}
}
