package frame_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/frame"
)

var errFull = errors.New("disk full")

// limited takes room bytes and then fails with err, or takes less than it is given when err is nil.
type limited struct {
	bytes.Buffer
	room int
	err  error
}

func (w *limited) Write(p []byte) (int, error) {
	if len(p) <= w.room {
		w.room -= len(p)
		return w.Buffer.Write(p)
	}
	n, _ := w.Buffer.Write(p[:w.room])
	w.room = 0
	return n, w.err
}

func TestWriterErrorsAreSticky(t *testing.T) {
	c := config(16)
	plaintext := pattern(5*c.Length + 3)
	sealed := body(c, plaintext)
	for name, side := range map[string]struct {
		open    func(io.Writer) io.WriteCloser
		in, out []byte
	}{
		"SealWriter": {func(w io.Writer) io.WriteCloser { return frame.NewSealWriter(w, c) }, plaintext, sealed},
		"OpenWriter": {func(w io.Writer) io.WriteCloser { return frame.NewOpenWriter(w, c) }, sealed, plaintext},
	} {
		t.Run(name, func(t *testing.T) {
			for _, want := range []error{errFull, io.ErrShortWrite} {
				for room := range len(side.out) {
					dst := &limited{room: room}
					if want == errFull {
						dst.err = want
					}
					w := side.open(dst)
					err := writeBy(w, side.in, always(1+room%40))
					if err == nil {
						err = w.Close()
					}
					require.Equal(t, want, err)
					dst.room = 1 << 20
					n, err := w.Write(side.in)
					require.Zero(t, n)
					require.Equal(t, want, err)
					require.Equal(t, want, w.Close())
					require.Equal(t, want, w.Close())
					require.Equal(t, side.out[:room], append([]byte{}, dst.Bytes()...))
				}
			}
		})
	}
}

func TestSealWriterReadFromDestinationError(t *testing.T) {
	c := config(16)
	for room := range 4 * (c.Length + frame.RegularOverhead) {
		dst := &limited{room: room, err: errFull}
		w := frame.NewSealWriter(dst, c)
		_, err := w.ReadFrom(bytes.NewReader(pattern(5 * c.Length)))
		require.Equal(t, errFull, err)
		dst.room = 1 << 20
		_, err = w.ReadFrom(bytes.NewReader(pattern(5 * c.Length)))
		require.Equal(t, errFull, err)
		require.Equal(t, errFull, w.Close())
	}
}

// What a destination took is counted and not given again; what it did not take is not lost.
func TestWriteToResumesAfterADestinationError(t *testing.T) {
	c := config(16)
	plaintext := pattern(5*c.Length + 3)
	sealed := body(c, plaintext)
	for name, side := range map[string]struct {
		open func() io.WriterTo
		out  []byte
	}{
		"SealReader": {func() io.WriterTo { return frame.NewSealReader(bytes.NewReader(plaintext), c) }, sealed},
		"OpenReader": {func() io.WriterTo { return frame.NewOpenReader(bytes.NewReader(sealed), c) }, plaintext},
	} {
		t.Run(name, func(t *testing.T) {
			for _, want := range []error{errFull, io.ErrShortWrite} {
				for room := range len(side.out) {
					dst := &limited{room: room}
					if want == errFull {
						dst.err = want
					}
					r := side.open()
					n, err := r.WriteTo(dst)
					require.Equal(t, want, err)
					require.EqualValues(t, room, n)
					dst.room = 1 << 20
					m, err := r.WriteTo(dst)
					require.NoError(t, err)
					require.EqualValues(t, len(side.out), n+m)
					require.Equal(t, side.out, dst.Bytes())
				}
			}
		})
	}
}

func TestClose(t *testing.T) {
	c := config(16)
	plaintext := pattern(40)
	var sealed bytes.Buffer
	s := frame.NewSealWriter(&sealed, c)
	_, err := s.Write(plaintext)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "a second Close does nothing")
	require.Equal(t, body(c, plaintext), sealed.Bytes())
	_, err = s.Write([]byte("x"))
	require.Equal(t, frame.ErrStreamClosed, err)
	_, err = s.ReadFrom(bytes.NewReader(plaintext))
	require.Equal(t, frame.ErrStreamClosed, err)
	require.NoError(t, s.Close())

	var opened bytes.Buffer
	o := frame.NewOpenWriter(&opened, c)
	_, err = o.Write(sealed.Bytes())
	require.NoError(t, err)
	require.Equal(t, plaintext[:32], opened.Bytes(), "the last plaintext waits for Close")
	require.NoError(t, o.Close())
	require.NoError(t, o.Close(), "a second Close does nothing")
	require.Equal(t, plaintext, opened.Bytes())
	_, err = o.Write([]byte("x"))
	require.Equal(t, frame.ErrStreamClosed, err)
	require.NoError(t, o.Close())
}

// Streams can be chained, so a destination may fail with this package's own ErrStreamClosed. That
// does not close the stream.
func TestClosedDestinationIsAnError(t *testing.T) {
	c := config(16)
	closed := frame.NewSealWriter(io.Discard, c)
	require.NoError(t, closed.Close())

	s := frame.NewSealWriter(closed, c)
	_, err := s.Write(pattern(40))
	require.ErrorIs(t, err, frame.ErrStreamClosed)
	require.ErrorIs(t, s.Close(), frame.ErrStreamClosed)

	o := frame.NewOpenWriter(closed, c)
	_, err = o.Write(body(c, pattern(40)))
	require.ErrorIs(t, err, frame.ErrStreamClosed)
	require.ErrorIs(t, o.Close(), frame.ErrStreamClosed)

	for _, w := range []io.WriteCloser{frame.NewSealWriter(closed, c), frame.NewOpenWriter(closed, c)} {
		_, err = w.Write(body(c, []byte("short")))
		if err == nil {
			err = w.Close()
		}
		require.ErrorIs(t, err, frame.ErrStreamClosed)
		require.ErrorIs(t, w.Close(), frame.ErrStreamClosed)
	}
}

type boastfulWriter struct{}

func (boastfulWriter) Write(p []byte) (int, error) { return len(p) + 1, nil }

func TestDestinationThatBreaksTheWritersContract(t *testing.T) {
	c := config(16)
	w := frame.NewSealWriter(boastfulWriter{}, c)
	require.ErrorContains(t, w.Close(), "the destination says")
	n, err := frame.NewSealReader(bytes.NewReader(pattern(40)), c).WriteTo(boastfulWriter{})
	require.ErrorContains(t, err, "the destination says")
	require.Zero(t, n)
}
