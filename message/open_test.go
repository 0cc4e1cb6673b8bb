package message_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

func TestOpen(t *testing.T) {
	race.SkipShort(t)
	key := &counting{Keyring: newKey(t, 1, "")}
	pairs := map[string]string{"tenant": "42"}
	for _, size := range []int{0, 1, 100, 65_536, 200_000} {
		stored := encrypt(t, &message.Encrypter{Keyring: key}, pattern(size), pairs)
		key.unwrapped.Store(0)
		r, err := decrypter(key).Open(t.Context(), bytes.NewReader(stored), int64(len(stored)), pairs)
		require.NoError(t, err)
		require.EqualValues(t, size, r.Size())
		require.Equal(t, "42", r.EncryptionContext()["tenant"])
		require.NoError(t, iotest.TestReader(r, pattern(size)))
		require.EqualValues(t, 1, key.unwrapped.Load(), "one call of the key service")
	}

	stored := encrypt(t, &message.Encrypter{Keyring: key}, pattern(200_000), pairs)
	for _, n := range []int{0, 1, 100, len(stored) - 1, len(stored) + 1} {
		longer := append(bytes.Clone(stored), 0)
		_, err := decrypter(key).Open(t.Context(), bytes.NewReader(longer[:n]), int64(n), nil)
		require.Error(t, err, "%d bytes", n)
	}
	_, err := decrypter(key).Open(t.Context(), bytes.NewReader(stored), int64(len(stored)), map[string]string{"tenant": "43"})
	require.ErrorIs(t, err, provider.ErrContextMismatch)
	signed := encrypt(t, &message.Encrypter{Keyring: key, Suite: signedSuite}, nil, nil)
	_, err = decrypter(key).Open(t.Context(), bytes.NewReader(signed), int64(len(signed)), nil)
	require.ErrorIs(t, err, header.ErrUnsupported)

	changed := bytes.Clone(stored)
	changed[100_000] ^= 1
	r, err := decrypter(key).Open(t.Context(), bytes.NewReader(changed), int64(len(changed)), nil)
	require.NoError(t, err)
	p := make([]byte, 10)
	_, err = r.ReadAt(p, 190_000)
	require.NoError(t, err, "a frame that was not changed")
	_, err = r.ReadAt(p, 70_000)
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)

	ctx, cancel := context.WithCancel(t.Context())
	r, err = decrypter(key).Open(ctx, bytes.NewReader(stored), int64(len(stored)), nil)
	require.NoError(t, err)
	cancel()
	_, err = r.ReadAt(p, 0)
	require.ErrorIs(t, err, context.Canceled)
}

// sparse is a message of 1 TiB whose header and a few frames were written, and nothing else.
type sparse struct {
	start  []byte
	frames map[int64][]byte // by offset
	read   int64
}

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	s.read += int64(len(p))
	clear(p)
	if off < int64(len(s.start)) {
		copy(p, s.start[off:])
	}
	for at, f := range s.frames {
		if at >= off && at+int64(len(f)) <= off+int64(len(p)) {
			copy(p[at-off:], f)
		}
	}
	return len(p), nil
}

func TestOpenReadsWhatARangeNeeds(t *testing.T) {
	key := newKey(t, 1, "")
	const size, length = 1 << 40, header.DefaultFrameLength
	made, err := key.GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	h := &header.Header{Suite: header.AES256GCMHKDFSHA512CommitKey, MessageID: make([]byte, 32), ContentType: header.Framed, FrameLength: length, EncryptedDataKeys: []header.EncryptedDataKey{made.EncryptedKey}}
	s := &sparse{frames: make(map[int64][]byte)}
	require.NoError(t, made.PlaintextKey.WithAccess(func(key []byte) error {
		aead, commitment, err := h.Suite.DeriveKeys(key, h.MessageID)
		if err != nil {
			return err
		}
		h.Commitment = commitment
		if err := h.Seal(aead, nil); err != nil {
			return err
		}
		// The frames by hand, as the specification has them (data-format/message-body.md).
		seal := func(index int64, content []byte, final bool) {
			number := []byte{byte((index + 1) >> 24), byte((index + 1) >> 16), byte((index + 1) >> 8), byte(index + 1)}
			iv := append(make([]byte, 8), number...)
			kind, frame := "AWSKMSEncryptionClient Frame", append(bytes.Clone(number), iv...)
			if final {
				kind = "AWSKMSEncryptionClient Final Frame"
				frame = append(append(append([]byte{255, 255, 255, 255}, number...), iv...), 0, 0, 0, 0)
			}
			additional := append(append(bytes.Clone(h.MessageID), kind...), number...)
			additional = append(additional, 0, 0, 0, 0, 0, byte(len(content)>>16), byte(len(content)>>8), byte(len(content)))
			s.frames[int64(h.Size())+index*(length+32)] = aead.Seal(frame, iv, content, additional)
		}
		seal(size/length, nil, true)
		for index := int64(1000); index < 1020; index++ {
			seal(index, bytes.Repeat([]byte{byte(index)}, length), false)
		}
		return nil
	}))
	require.NoError(t, made.Close())
	s.start = h.Bytes()
	stored, err := message.EncryptedSize(h, size)
	require.NoError(t, err)

	r, err := decrypter(key).Open(t.Context(), s, stored, nil)
	require.NoError(t, err)
	require.Equal(t, int64(size), r.Size())
	p := make([]byte, 1<<20)
	_, err = r.ReadAt(p, 1001*length+5)
	require.NoError(t, err)
	require.Equal(t, byte(1001%256), p[0])
	require.Equal(t, byte(1017%256), p[len(p)-1])
	require.LessOrEqual(t, s.read, int64(1<<20+3*(length+frame.RegularOverhead)+h.Size()))
	t.Logf("a range of 1 MiB of 1 TiB reads %d bytes", s.read)
}

// Ranges over HTTP, from a file.
func TestServeContent(t *testing.T) {
	key := newKey(t, 1, "")
	plaintext := pattern(1_000_000)
	file := filepath.Join(t.TempDir(), "video")
	require.NoError(t, os.WriteFile(file, encrypt(t, &message.Encrypter{Keyring: key}, plaintext, nil), 0o600))
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	r, err := decrypter(key).Open(t.Context(), f, info.Size(), nil)
	require.NoError(t, err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		http.ServeContent(w, request, "video.mp4", time.Time{}, io.NewSectionReader(r, 0, r.Size()))
	}))
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()
	for range 20 {
		off := rand.IntN(900_000)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		require.NoError(t, err)
		request.Header.Set("Range", "bytes="+strconv.Itoa(off)+"-"+strconv.Itoa(off+99_999))
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		got, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusPartialContent, response.StatusCode)
		require.True(t, bytes.Equal(plaintext[off:off+100_000], got))
	}
}
