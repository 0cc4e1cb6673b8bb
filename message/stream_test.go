package message_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

func TestRoundTrip(t *testing.T) {
	key := newKey(t, 1, "")
	rapid.Check(t, func(t *rapid.T) {
		e := &message.Encrypter{Keyring: key, FrameLength: rapid.IntRange(1, 300).Draw(t, "frame length")}
		plaintext := rapid.SliceOfN(rapid.Byte(), 0, 1000).Draw(t, "plaintext")
		encryptionContext := rapid.MapOfN(
			rapid.String().Filter(func(k string) bool { return header.CheckContext(map[string]string{k: ""}) == nil }),
			rapid.String(), 0, 5).Draw(t, "context")
		pieces := [2]int{rapid.IntRange(1, 700).Draw(t, "written by"), rapid.IntRange(1, 700).Draw(t, "read by")}
		encryptWay := rapid.SampledFrom(slices.Sorted(maps.Keys(encryptWays))).Draw(t, "encrypt")
		decryptWay := rapid.SampledFrom(slices.Sorted(maps.Keys(decryptWays))).Draw(t, "decrypt")

		sealed, err := encryptWays[encryptWay](context.Background(), e, iotest.HalfReader(bytes.NewReader(plaintext)), encryptionContext, pieces[0])
		require.NoError(t, err)
		got, err := decryptWays[decryptWay](context.Background(), decrypter(key), bytes.NewReader(sealed), encryptionContext, pieces[1])
		require.NoError(t, err)
		require.True(t, bytes.Equal(plaintext, got))
	})
}

func TestEveryWayWithEveryOther(t *testing.T) {
	key := newKey(t, 1, "")
	encryptionContext := map[string]string{"tenant": "acme"}
	for _, n := range []int{0, 1, 63, 64, 65, 128, 1000} {
		plaintext := pattern(n)
		for from, encrypt := range encryptWays {
			sealed, err := encrypt(context.Background(), &message.Encrypter{Keyring: key, FrameLength: 64}, bytes.NewReader(plaintext), encryptionContext, 50)
			require.NoError(t, err)
			for to, decrypt := range decryptWays {
				got, err := decrypt(context.Background(), decrypter(key), bytes.NewReader(sealed), encryptionContext, 50)
				require.NoError(t, err, "%s to %s", from, to)
				require.True(t, bytes.Equal(plaintext, got), "%s to %s, %d bytes", from, to, n)
			}
		}
	}
}

func TestEncryptAndDecryptInMemory(t *testing.T) {
	key := newKey(t, 1, "")
	encryptionContext := map[string]string{"tenant": "acme", "empty": ""}
	for _, n := range []int{0, 1, header.DefaultFrameLength, header.DefaultFrameLength + 1} {
		sealed := encrypt(t, &message.Encrypter{Keyring: key}, pattern(n), encryptionContext)
		got, gotContext, err := decrypter(key).Decrypt(context.Background(), sealed, nil)
		require.NoError(t, err)
		require.True(t, bytes.Equal(pattern(n), got))
		require.Equal(t, encryptionContext, gotContext)

		sealed[len(sealed)-1] ^= 1
		got, gotContext, err = decrypter(key).Decrypt(context.Background(), sealed, nil)
		require.ErrorIs(t, err, provider.ErrDecryptionFailed)
		require.Nil(t, got)
		require.Nil(t, gotContext)
	}
}

func TestNoTwoMessagesAreAlike(t *testing.T) {
	e := &message.Encrypter{Keyring: newKey(t, 1, "")}
	ids := map[string]bool{}
	for range 100 {
		h, _, err := header.Parse(encrypt(t, e, []byte("same"), nil), header.Limits{})
		require.NoError(t, err)
		ids[string(h.MessageID)] = true
	}
	require.Len(t, ids, 100)
}

func TestHeaderOfAStream(t *testing.T) {
	key := newKey(t, 1, "")
	encryptionContext := map[string]string{"tenant": "acme"}
	e := &message.Encrypter{Keyring: key, FrameLength: 64}
	var out bytes.Buffer
	w, err := e.NewWriter(context.Background(), &out, encryptionContext)
	require.NoError(t, err)
	require.Equal(t, out.Bytes(), w.Header().Bytes(), "the header is written at once")
	require.Equal(t, encryptionContext, w.Header().EncryptionContext)
	require.EqualValues(t, 64, w.Header().FrameLength)
	encryptionContext["tenant"] = "changed by the caller"
	require.Equal(t, "acme", w.Header().EncryptionContext["tenant"])
	require.NoError(t, w.Close())

	r, err := decrypter(key).NewReader(context.Background(), bytes.NewReader(out.Bytes()), nil)
	require.NoError(t, err)
	require.Equal(t, w.Header().Bytes(), r.Header().Bytes())
	require.Equal(t, map[string]string{"tenant": "acme"}, r.EncryptionContext())

	d := decrypter(key).NewWriter(context.Background(), io.Discard, nil)
	size := w.Header().Size()
	_, err = d.Write(out.Bytes()[:size-1])
	require.NoError(t, err)
	_, err = d.Write(out.Bytes()[size-1:])
	require.NoError(t, err)
	require.NoError(t, d.Close())
	require.NoError(t, d.Close(), "a second Close does nothing")
	_, err = d.Write([]byte("x"))
	require.ErrorIs(t, err, provider.ErrClosed)
}

func TestClosedDecryptReader(t *testing.T) {
	key := newKey(t, 1, "")
	r, err := decrypter(key).NewReader(context.Background(), bytes.NewReader(encrypt(t, &message.Encrypter{Keyring: key}, []byte("text"), nil)), nil)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.NoError(t, r.Close())
	_, err = r.Read(make([]byte, 10))
	require.ErrorIs(t, err, provider.ErrClosed)
	_, err = r.WriteTo(io.Discard)
	require.ErrorIs(t, err, provider.ErrClosed)
}

func TestConcurrentUse(t *testing.T) {
	key, second := newKey(t, 1, "first"), newKey(t, 2, "second")
	e := &message.Encrypter{Keyring: key, Recipients: []provider.Wrapper{second}, FrameLength: 100}
	d := decrypter(second, key)
	shared := map[string]string{"shared": "by all"}
	var group sync.WaitGroup
	failures := make(chan error, 50)
	for i := range 50 {
		group.Go(func() {
			plaintext := pattern(100*i + i)
			for from, encrypt := range encryptWays {
				sealed, err := encrypt(context.Background(), e, bytes.NewReader(plaintext), shared, 77)
				if err != nil {
					failures <- fmt.Errorf("%s: %w", from, err)
					return
				}
				for to, decrypt := range decryptWays {
					got, err := decrypt(context.Background(), d, bytes.NewReader(sealed), shared, 77)
					if err != nil || !bytes.Equal(plaintext, got) {
						failures <- fmt.Errorf("%s to %s, %d of %d bytes: %w", from, to, len(got), len(plaintext), err)
						return
					}
				}
			}
		})
	}
	group.Wait()
	close(failures)
	for err := range failures {
		require.NoError(t, err)
	}
}

// cancelling cancels a context once n bytes went through it.
type cancelling struct {
	r      io.Reader
	n      int
	cancel context.CancelFunc
}

func (c *cancelling) Read(p []byte) (int, error) {
	n, err := c.r.Read(p[:min(len(p), 100)])
	if c.n -= n; c.n <= 0 {
		c.cancel()
	}
	return n, err
}

func TestCancelledContextEndsEveryStream(t *testing.T) {
	key := newKey(t, 1, "")
	e := &message.Encrypter{Keyring: key, FrameLength: 64}
	plaintext := pattern(10_000)
	sealed := encrypt(t, e, plaintext, nil)
	for name, way := range encryptWays {
		t.Run("encrypt by "+name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			got, err := way(ctx, e, &cancelling{bytes.NewReader(plaintext), 5000, cancel}, nil, 150)
			require.ErrorIs(t, err, context.Canceled)
			require.Greater(t, len(got), 4000)
			require.Less(t, len(got), len(sealed))
			_, _, err = decrypter(key).Decrypt(context.Background(), got, nil)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF, "what was written passes for a whole message")

			_, err = way(ctx, e, bytes.NewReader(plaintext), nil, 150)
			require.ErrorIs(t, err, context.Canceled, "the context had ended before")
		})
	}
	for name, way := range decryptWays {
		t.Run("decrypt by "+name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			got, err := way(ctx, decrypter(key), &cancelling{bytes.NewReader(sealed), 5000, cancel}, nil, 150)
			require.ErrorIs(t, err, context.Canceled)
			require.Greater(t, len(got), 2000)
			require.Less(t, len(got), len(plaintext))
			require.True(t, bytes.HasPrefix(plaintext, got))

			_, err = way(ctx, decrypter(key), bytes.NewReader(sealed), nil, 150)
			require.ErrorIs(t, err, context.Canceled, "the context had ended before")
		})
	}
}

func TestBrokenSourceMakesNoMessage(t *testing.T) {
	key := newKey(t, 1, "")
	e := &message.Encrypter{Keyring: key, FrameLength: 64}
	for _, cause := range []error{io.ErrUnexpectedEOF, errors.New("connection reset")} {
		for name, way := range encryptWays {
			for _, n := range []int{0, 1, 64, 65, 200} {
				got, err := way(context.Background(), e, io.MultiReader(bytes.NewReader(pattern(n)), iotest.ErrReader(cause)), nil, 50)
				require.ErrorIs(t, err, cause, name)
				_, _, err = decrypter(key).Decrypt(context.Background(), got, nil)
				require.ErrorIs(t, err, provider.ErrInvalidCiphertext, "%s: a message of %d bytes passes for whole", name, n)
			}
		}
		sealed := encrypt(t, e, pattern(200), nil)
		for name, way := range decryptWays {
			// Within the header, too, a broken connection is not the message's fault.
			for _, n := range []int{len(sealed) - 300, len(sealed) / 2, len(sealed) - 1, len(sealed)} {
				_, err := way(context.Background(), decrypter(key), io.MultiReader(bytes.NewReader(sealed[:n]), iotest.ErrReader(cause)), nil, 50)
				require.ErrorIs(t, err, cause, name)
			}
		}
	}
}

func TestDestinationErrors(t *testing.T) {
	full := errors.New("disk full")
	key := newKey(t, 1, "")
	e := &message.Encrypter{Keyring: key, FrameLength: 64}
	sealed := encrypt(t, e, pattern(200), nil)
	for _, broken := range []struct {
		dst  io.Writer
		want error
	}{{failing{full}, full}, {failing{nil}, io.ErrShortWrite}} {
		w, err := e.NewWriter(context.Background(), broken.dst, nil)
		require.Nil(t, w)
		require.ErrorIs(t, err, broken.want, "the header was not written")
		r, err := e.NewReader(context.Background(), bytes.NewReader(nil), nil)
		require.NoError(t, err)
		_, err = r.WriteTo(broken.dst)
		require.ErrorIs(t, err, broken.want)

		d := decrypter(key).NewWriter(context.Background(), broken.dst, nil)
		_, err = d.Write(sealed)
		require.ErrorIs(t, err, broken.want)
		_, err = d.Write(sealed)
		require.ErrorIs(t, err, broken.want, "the error is sticky")
		require.ErrorIs(t, d.Close(), broken.want)
	}
}

type failing struct{ err error }

func (f failing) Write(p []byte) (int, error) { return len(p) / 2, f.err }

func TestEncryptReaderResumesAfterADestinationError(t *testing.T) {
	key := newKey(t, 1, "")
	r, err := (&message.Encrypter{Keyring: key, FrameLength: 64}).NewReader(context.Background(), bytes.NewReader(pattern(200)), nil)
	require.NoError(t, err)
	var out bytes.Buffer
	for tries := 0; ; tries++ {
		require.Less(t, tries, 1000)
		if _, err = r.WriteTo(&taking{&out, 33}); err == nil {
			break
		}
		require.Equal(t, io.ErrShortWrite, err)
	}
	got, _, err := decrypter(key).Decrypt(context.Background(), out.Bytes(), nil)
	require.NoError(t, err)
	require.Equal(t, pattern(200), got)
}

// taking takes n bytes in all.
type taking struct {
	w io.Writer
	n int
}

func (w *taking) Write(p []byte) (int, error) {
	n, err := w.w.Write(p[:min(w.n, len(p))])
	w.n -= n
	return n, err
}

func TestDroppedReadersLeaveNothing(t *testing.T) {
	key := newKey(t, 1, "")
	e := &message.Encrypter{Keyring: key, FrameLength: 64}
	sealed := encrypt(t, e, pattern(1000), nil)
	before := goleak.IgnoreCurrent()
	for range 10 {
		r, err := e.NewReader(context.Background(), bytes.NewReader(pattern(1000)), nil)
		require.NoError(t, err)
		_, err = io.ReadFull(r, make([]byte, 500))
		require.NoError(t, err)
		d, err := decrypter(key).NewReader(context.Background(), bytes.NewReader(sealed), nil)
		require.NoError(t, err)
		_, err = io.ReadFull(d, make([]byte, 500))
		require.NoError(t, err)
		w, err := e.NewWriter(context.Background(), io.Discard, nil)
		require.NoError(t, err)
		_, err = w.Write(pattern(500))
		require.NoError(t, err)
		_, err = decrypter(key).NewWriter(context.Background(), io.Discard, nil).Write(sealed[:len(sealed)/2])
		require.NoError(t, err)
	}
	goleak.VerifyNone(t, before)
}

// TestCancelWithinMemory ends a context in the middle of a source that is wholly in memory.
func TestCancelWithinMemory(t *testing.T) {
	const size = 48 << 20
	key := newKey(t, 1, "")
	for _, parallelism := range []int{1, 3} {
		e := &message.Encrypter{Keyring: key, Parallelism: parallelism}
		d := decrypter(key)
		d.Parallelism = parallelism
		sealed := encrypt(t, e, make([]byte, size), nil)
		cancelled := func(open func(ctx context.Context) (io.WriterTo, error)) {
			ctx, cancel := context.WithCancel(t.Context())
			r, err := open(ctx)
			require.NoError(t, err)
			n, err := r.WriteTo(writerFunc(func(p []byte) (int, error) {
				cancel()
				time.Sleep(time.Millisecond) // a reader that runs ahead has the time to
				return len(p), nil
			}))
			require.ErrorIs(t, err, context.Canceled)
			require.Less(t, n, int64(size/4))
		}
		cancelled(func(ctx context.Context) (io.WriterTo, error) {
			return e.NewReader(ctx, bytes.NewReader(make([]byte, size)), nil)
		})
		cancelled(func(ctx context.Context) (io.WriterTo, error) { return d.NewReader(ctx, bytes.NewReader(sealed), nil) })
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
