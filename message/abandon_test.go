package message_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

var errLost = errors.New("connection lost")

// lost is a source of n bytes whose connection is lost after them.
func lost(n int) io.Reader {
	return io.MultiReader(bytes.NewReader(pattern(n)), iotest.ErrReader(errLost))
}

// An upload that fails half-way and is closed all the same, by habit, is no whole message.
func TestAnAbandonedWriteIsNeverWhole(t *testing.T) {
	const size = 100_000
	key := newKey(t, 1, "")
	foreign := encrypt(t, &message.Encrypter{Keyring: key}, pattern(size), nil)
	foreign[90_000] ^= 1
	uploads := map[string]func(ctx context.Context, cancel func(), w *message.EncryptWriter) error{
		"ReadFrom": func(_ context.Context, _ func(), w *message.EncryptWriter) error {
			_, err := w.ReadFrom(lost(size))
			return err
		},
		"io.Copy": func(_ context.Context, _ func(), w *message.EncryptWriter) error {
			_, err := io.Copy(w, lost(size))
			return err
		},
		"io.Copy of a bufio.Reader": func(_ context.Context, _ func(), w *message.EncryptWriter) error {
			_, err := io.Copy(w, bufio.NewReader(lost(size)))
			return err
		},
		"io.Copy of a message that was changed": func(ctx context.Context, _ func(), w *message.EncryptWriter) error {
			r, err := decrypter(key).NewReader(ctx, bytes.NewReader(foreign), nil)
			require.NoError(t, err)
			_, err = io.Copy(w, r)
			return err
		},
		"io.Copy of a message whose source is lost": func(ctx context.Context, _ func(), w *message.EncryptWriter) error {
			r, err := (&message.Encrypter{Keyring: key}).NewReader(ctx, lost(size), nil)
			require.NoError(t, err)
			_, err = io.Copy(w, r)
			return err
		},
		"an ended context": func(ctx context.Context, cancel func(), w *message.EncryptWriter) error {
			_, err := w.Write(pattern(size))
			require.NoError(t, err)
			cancel()
			return ctx.Err()
		},
		"a source that outlives the context": func(ctx context.Context, cancel func(), w *message.EncryptWriter) error {
			_, err := w.ReadFrom(io.MultiReader(bytes.NewReader(pattern(10)), readerFunc(func(p []byte) (int, error) {
				cancel()
				return copy(p, pattern(100)), nil
			})))
			return err
		},
		"Abort": func(_ context.Context, _ func(), w *message.EncryptWriter) error {
			_, err := w.Write(pattern(size))
			require.NoError(t, err)
			w.Abort()
			w.Abort()
			return provider.ErrClosed
		},
		"a source that panics": func(_ context.Context, _ func(), w *message.EncryptWriter) error {
			require.Panics(t, func() {
				_, _ = w.ReadFrom(readerFunc(func([]byte) (int, error) { panic("source") }))
			})
			return provider.ErrClosed
		},
	}
	cases := 0
	for name, upload := range uploads {
		for _, suite := range []header.Suite{0, signedSuite} {
			cases++
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var stored bytes.Buffer
			w, err := (&message.Encrypter{Keyring: key, Suite: suite}).NewWriter(ctx, &stored, nil)
			require.NoError(t, err)
			err = upload(ctx, cancel, w)
			require.Error(t, err, name)
			first := w.Close()
			require.ErrorIs(t, first, err, "%s: the habit of a deferred Close", name)
			require.Equal(t, first, w.Close(), "%s: a second Close", name)
			_, err = w.Write([]byte("x"))
			require.Error(t, err, name)
			_, err = w.ReadFrom(bytes.NewReader(nil))
			require.Error(t, err, name)
			require.Equal(t, first, w.Close(), name)
			_, _, err = decrypter(key).Decrypt(t.Context(), stored.Bytes(), nil)
			require.ErrorIs(t, err, provider.ErrInvalidCiphertext, "%s: it passes for whole", name)
		}
	}
	t.Logf("%d cases", cases)
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// The pattern of the documentation: Abort is deferred, Close comes last.
func TestAbortAfterCloseDoesNothing(t *testing.T) {
	key := newKey(t, 1, "")
	for _, suite := range []header.Suite{0, signedSuite} {
		var stored bytes.Buffer
		require.NoError(t, func() error {
			w, err := (&message.Encrypter{Keyring: key, Suite: suite}).NewWriter(t.Context(), &stored, nil)
			if err != nil {
				return err
			}
			defer w.Abort()
			if _, err := fmt.Fprint(w, "text"); err != nil {
				return err
			}
			return w.Close()
		}())
		got, _, err := decrypter(key).Decrypt(t.Context(), stored.Bytes(), nil)
		require.NoError(t, err)
		require.Equal(t, "text", string(got))
	}
}

// Each closer returns again what it returned first, and each call between says that it is closed.
func TestEverySecondCloseIsTheFirst(t *testing.T) {
	key := newKey(t, 1, "")
	sealed := encrypt(t, &message.Encrypter{Keyring: key}, []byte("text"), nil)
	for _, full := range []error{nil, errors.New("disk full")} {
		failing := false
		dst := writerFunc(func(p []byte) (int, error) {
			if failing && full != nil {
				return 0, full
			}
			return len(p), nil
		})
		w, err := (&message.Encrypter{Keyring: key}).NewWriter(t.Context(), dst, nil)
		require.NoError(t, err)
		d := decrypter(key).NewWriter(t.Context(), dst, nil)
		_, err = d.Write(sealed)
		require.NoError(t, err)
		failing = true
		for _, c := range []io.WriteCloser{w, d} {
			first := c.Close()
			require.ErrorIs(t, first, full)
			failing = false
			require.Equal(t, first, c.Close())
			_, err := c.Write(nil)
			_, readErr := c.(io.ReaderFrom).ReadFrom(bytes.NewReader(nil))
			for _, err := range []error{err, readErr} {
				if full == nil {
					require.ErrorIs(t, err, provider.ErrClosed)
				} else {
					require.ErrorIs(t, err, full)
				}
			}
			require.Equal(t, first, c.Close())
			failing = true
		}
	}
	cut := decrypter(key).NewWriter(t.Context(), io.Discard, nil)
	_, err := cut.Write(sealed[:len(sealed)-1])
	require.NoError(t, err)
	first := cut.Close()
	require.ErrorIs(t, first, provider.ErrInvalidCiphertext)
	require.Equal(t, first, cut.Close())
	empty := decrypter(key).NewWriter(t.Context(), io.Discard, nil)
	first = empty.Close()
	require.ErrorIs(t, first, provider.ErrInvalidCiphertext)
	require.Equal(t, first, empty.Close())
}

// A keyring that panics leaves no writer whose Close reports success.
func TestAPanicWithinADecryptWriterIsNoSuccess(t *testing.T) {
	key := newKey(t, 1, "")
	sealed := encrypt(t, &message.Encrypter{Keyring: key}, []byte("text"), nil)
	w := decrypter(panickingUnwrap{key}).NewWriter(t.Context(), io.Discard, nil)
	require.Panics(t, func() { _, _ = w.Write(sealed) })
	require.ErrorIs(t, w.Close(), provider.ErrClosed)
}

type panickingUnwrap struct{ provider.Keyring }

func (panickingUnwrap) UnwrapDataKey(context.Context, *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	panic("keyring")
}
