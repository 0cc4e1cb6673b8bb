package message_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// endings are the ways in which a source loses its connection, and one that returns nothing for
// ever.
var endings = func() map[string]adversary.Ending {
	all := maps.Clone(adversary.Losses)
	all["nothing more, for ever"] = adversary.Ending{}
	return all
}()

// failure is what a door must report of an ending.
func failure(e adversary.Ending) error {
	if e.Err == nil {
		return io.ErrNoProgress
	}
	return e.Err
}

// A connection may be lost at any place of a message, in any way. The error is then the
// connection's, and never an end, an empty input, or that the input is no message.
func TestAConnectionLostAnywhereIsNoEnd(t *testing.T) {
	race.SkipShort(t)
	key := newKey(t, 1, "")
	plaintext := pattern(150)
	for _, suite := range []header.Suite{0, signedSuite} {
		sealed := encrypt(t, &message.Encrypter{Keyring: key, FrameLength: 64, Suite: suite}, plaintext, nil)
		cases := 0
		for how, ending := range endings {
			for cut := range len(sealed) + 1 {
				if cut%11 != 0 && cut > 40 && cut < len(sealed)-20 {
					continue
				}
				for door, way := range decryptWays {
					if door == "Write" && ending.Err == nil {
						continue // the caller reads the source
					}
					src := &adversary.Source{Rest: sealed[:cut], Piece: 1 + cut%50, Ending: ending}
					got, err := way(t.Context(), decrypter(key), src, nil, 100)
					cases++
					require.ErrorIs(t, err, failure(ending), "%s, %s after %d bytes", door, how, cut)
					require.NotErrorIs(t, err, provider.ErrInvalidCiphertext, "%s, %s after %d bytes", door, how, cut)
					require.True(t, bytes.HasPrefix(plaintext, got))
				}
			}
		}
		t.Logf("%v: %d cases", suite, cases)
	}
}

// A source that fails never becomes a whole message.
func TestASourceThatFailsMakesNoMessage(t *testing.T) {
	key := newKey(t, 1, "")
	cases := 0
	for _, suite := range []header.Suite{0, signedSuite} {
		e := &message.Encrypter{Keyring: key, FrameLength: 64, Suite: suite}
		for how, ending := range endings {
			for _, size := range []int{0, 1, 63, 64, 65, 128, 200} {
				for door, way := range encryptWays {
					if door == "Write" && ending.Err == nil {
						continue // the caller reads the source
					}
					got, err := way(t.Context(), e, &adversary.Source{Rest: pattern(size), Piece: 50, Ending: ending}, nil, 100)
					cases++
					require.ErrorIs(t, err, failure(ending), "%s, %s after %d bytes", door, how, size)
					_, _, err = decrypter(key).Decrypt(t.Context(), got, nil)
					require.ErrorIs(t, err, provider.ErrInvalidCiphertext, "%s, %s after %d bytes: it passes for whole", door, how, size)
				}
			}
		}
	}
	t.Logf("%d cases", cases)
}

// liar reports wrong counts of its reads, after some bytes.
type liar struct {
	bytes.Reader
	after, says int
}

func (l *liar) Read(p []byte) (int, error) {
	if l.after <= 0 {
		return l.says, nil
	}
	n, err := l.Reader.Read(p[:min(len(p), l.after)])
	l.after -= n
	return n, err
}

// ReadAt reports wrong counts of reads that begin after the field after.
func (l *liar) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > int64(l.after) {
		return l.says, nil
	}
	return l.Reader.ReadAt(p, off)
}

// Sources that report more than they can have read are refused. Nothing panics, and bytes that were
// in memory before are never taken for theirs.
func TestSourcesThatLie(t *testing.T) {
	key := newKey(t, 1, "")
	e := &message.Encrypter{Keyring: key, FrameLength: 64}
	plaintext := pattern(200)
	sealed := encrypt(t, e, plaintext, nil)
	cases := 0
	for _, says := range []int{-1, 1 << 30} {
		for _, after := range []int{0, 1, 3, 4, 64, 100, 150, 199} {
			for door, way := range encryptWays {
				if door == "Write" {
					continue // the caller reads the source
				}
				cases++
				_, err := way(t.Context(), e, onlyRead(plaintext, after, says), nil, 100)
				require.ErrorContains(t, err, "says it read", door)
			}
			for door, way := range decryptWays {
				if door == "Write" {
					continue
				}
				cases++
				_, err := way(t.Context(), decrypter(key), onlyRead(sealed, after, says), nil, 100)
				require.ErrorContains(t, err, "says it read", door)
			}
		}
		for _, after := range []int{0, 3, 100, len(sealed) - 10} {
			src := &liar{after: after, says: says}
			src.Reset(sealed)
			cases++
			_, err := decrypter(key).Open(t.Context(), src, int64(len(sealed)), nil)
			require.ErrorContains(t, err, "says it read", "Open after %d", after)
		}
	}
	t.Logf("%d cases", cases)
}

func onlyRead(b []byte, after, says int) io.Reader {
	l := &liar{after: after, says: says}
	l.Reset(b)
	return struct{ io.Reader }{l}
}

// Slow sources work: they return nothing at times, one byte at a time, or io.EOF with the last
// bytes.
func TestSourcesThatAreSlow(t *testing.T) {
	key := newKey(t, 1, "")
	e := &message.Encrypter{Keyring: key, FrameLength: 64}
	plaintext := pattern(200)
	sealed := encrypt(t, e, plaintext, nil)
	slow := map[string]func(b []byte) io.Reader{
		"a byte at a time": func(b []byte) io.Reader {
			return &adversary.Source{Rest: b, Piece: 1, Ending: adversary.Ending{Err: io.EOF}}
		},
		"the end with data": func(b []byte) io.Reader {
			return &adversary.Source{Rest: b, Piece: 50, Ending: adversary.Ending{Err: io.EOF, WithData: true}}
		},
		"nothing 99 of 100":    func(b []byte) io.Reader { return &idle{Reader: *bytes.NewReader(b), every: 100} },
		"nothing, then a byte": func(b []byte) io.Reader { return &idle{Reader: *bytes.NewReader(b), every: 2} },
	}
	for how, src := range slow {
		for door, way := range encryptWays {
			stored, err := way(t.Context(), e, struct{ io.Reader }{src(plaintext)}, nil, 100)
			require.NoError(t, err, "%s, %s", door, how)
			got, _, err := decrypter(key).Decrypt(t.Context(), stored, nil)
			require.NoError(t, err)
			require.Equal(t, plaintext, got)
		}
		for door, way := range decryptWays {
			got, err := way(t.Context(), decrypter(key), struct{ io.Reader }{src(sealed)}, nil, 100)
			require.NoError(t, err, "%s, %s", door, how)
			require.Equal(t, plaintext, got)
		}
	}
}

// idle returns a few bytes at every few calls, and otherwise nothing.
type idle struct {
	bytes.Reader
	every, calls int
}

func (i *idle) Read(p []byte) (int, error) {
	if i.calls++; i.calls%i.every != 0 {
		return 0, nil
	}
	return i.Reader.Read(p[:min(len(p), 20)])
}

// answer is the result of a write.
type answer struct {
	n   func(len int) int
	err error
}

// Destinations may fail, take too little, or report an impossible count. Each way to write reports
// it, at each write, and no Close succeeds afterwards.
func TestDestinationsThatFailOrLie(t *testing.T) {
	key := newKey(t, 1, "")
	full := errors.New("disk full")
	answers := map[string]answer{
		"fails":                  {func(int) int { return 0 }, full},
		"fails with a part":      {func(n int) int { return n / 2 }, full},
		"fails with all":         {func(n int) int { return n }, full},
		"ends":                   {func(int) int { return 0 }, io.EOF},
		"takes less":             {func(n int) int { return n - 1 }, nil},
		"takes nothing":          {func(int) int { return 0 }, nil},
		"says less than nothing": {func(int) int { return -1 }, nil},
		"says more":              {func(n int) int { return n + 1 }, nil},
	}
	cases := 0
	for _, suite := range []header.Suite{0, signedSuite} {
		e := &message.Encrypter{Keyring: key, FrameLength: 64, Suite: suite}
		plaintext := pattern(150)
		sealed := encrypt(t, e, plaintext, nil)
		closing := func(w io.WriteCloser, err error) error {
			closed := w.Close()
			if err == nil {
				err = closed
			}
			if !errors.Is(closed, err) || w.Close() != closed {
				return fmt.Errorf("Close gives %w, and again %w, after %w", closed, w.Close(), err)
			}
			return err
		}
		doors := map[string]func(dst io.Writer) error{
			"EncryptReader.WriteTo": func(dst io.Writer) error {
				r, err := e.NewReader(t.Context(), bytes.NewReader(plaintext), nil)
				require.NoError(t, err)
				_, err = r.WriteTo(dst)
				return err
			},
			"EncryptWriter.Write": func(dst io.Writer) error {
				w, err := e.NewWriter(t.Context(), dst, nil)
				if err != nil {
					return err
				}
				return closing(w, copyBy(w, bytes.NewReader(plaintext), 100))
			},
			"EncryptWriter.ReadFrom": func(dst io.Writer) error {
				w, err := e.NewWriter(t.Context(), dst, nil)
				if err != nil {
					return err
				}
				_, err = w.ReadFrom(bytes.NewReader(plaintext))
				return closing(w, err)
			},
			"DecryptReader.WriteTo": func(dst io.Writer) error {
				r, err := decrypter(key).NewReader(t.Context(), bytes.NewReader(sealed), nil)
				require.NoError(t, err)
				_, err = r.WriteTo(dst)
				return err
			},
			"DecryptWriter.Write": func(dst io.Writer) error {
				w := decrypter(key).NewWriter(t.Context(), dst, nil)
				return closing(w, copyBy(w, bytes.NewReader(sealed), 100))
			},
			"DecryptWriter.ReadFrom": func(dst io.Writer) error {
				w := decrypter(key).NewWriter(t.Context(), dst, nil)
				_, err := w.(io.ReaderFrom).ReadFrom(bytes.NewReader(sealed))
				return closing(w, err)
			},
		}
		for door, run := range doors {
			for how, answer := range answers {
				for at := 0; ; at++ { // the number of the write that fails
					writes := 0
					err := run(writerFunc(func(p []byte) (int, error) {
						if writes++; writes == at+1 {
							return answer.n(len(p)), answer.err
						}
						return len(p), nil
					}))
					if writes <= at {
						require.NoError(t, err, door)
						require.Greater(t, at, 1, "%s writes but once", door)
						break
					}
					cases++
					require.Error(t, err, "%s, %s at write %d", door, how, at+1)
					require.False(t, err == io.EOF, "%s, %s: it passes for the source's end", door, how)
					switch {
					case answer.err != nil:
						require.ErrorIs(t, err, answer.err, "%s, %s at write %d", door, how, at+1)
					case strings.HasPrefix(how, "says"):
						require.ErrorContains(t, err, "says it wrote", "%s, %s at write %d", door, how, at+1)
					default:
						require.ErrorIs(t, err, io.ErrShortWrite, "%s, %s at write %d", door, how, at+1)
					}
				}
			}
		}
	}
	t.Logf("%d cases", cases)
}
