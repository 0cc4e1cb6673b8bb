package frame_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/frame"
)

// requireRefused opens sealed in every way, and checks that only whole frames of plaintext came
// out before the error.
func requireRefused(t *testing.T, c frame.Config, sealed, plaintext []byte, want ...error) {
	t.Helper()
	for _, open := range openWays {
		for _, next := range []sizes{always(1), always(7), always(c.Length), always(1 << 10)} {
			got, err := open.run(c, bytes.NewReader(sealed), next)
			require.Error(t, err, open.name)
			for _, w := range want {
				require.ErrorIs(t, err, w, open.name)
			}
			require.True(t, bytes.HasPrefix(plaintext, got), "%s released what is not the plaintext", open.name)
			require.Zero(t, len(got)%c.Length, "%s released a part of a frame", open.name)
			require.Less(t, len(got), max(len(plaintext), 1), "%s released all", open.name)
		}
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	c := config(16)
	plaintext := pattern(4*c.Length + 5)
	whole := handmade(c, plaintext, false)
	join := func(frames ...[]byte) []byte { return bytes.Join(frames, nil) }
	changed := func(i, at int) []byte {
		frames := append([][]byte{}, whole...)
		frames[i] = bytes.Clone(frames[i])
		frames[i][at] ^= 1
		return join(frames...)
	}
	other := c
	other.MessageID = bytes.Repeat([]byte{0x2D}, 32)
	long := binary.BigEndian.AppendUint32(bytes.Clone(whole[4][:20]), 17)
	long = append(long, make([]byte, 17+16)...)

	tests := []struct {
		name   string
		sealed []byte
		want   []error
	}{
		{"nothing", nil, []error{frame.ErrTruncated, io.ErrUnexpectedEOF}},
		{"cut between frames", join(whole[0], whole[1]), []error{frame.ErrTruncated, io.ErrUnexpectedEOF}},
		{"cut within a frame", join(whole[0], whole[1][:20]), []error{frame.ErrTruncated, io.ErrUnexpectedEOF}},
		{"cut within the final frame", join(whole...)[:len(join(whole...))-1], []error{frame.ErrTruncated, io.ErrUnexpectedEOF}},
		{"frame missing", join(whole[0], whole[2], whole[3], whole[4]), []error{frame.ErrSequence}},
		{"frame twice", join(whole[0], whole[0], whole[1], whole[2], whole[3], whole[4]), []error{frame.ErrSequence}},
		{"frames swapped", join(whole[1], whole[0], whole[2], whole[3], whole[4]), []error{frame.ErrSequence}},
		{"final frame early", join(whole[0], whole[4]), []error{frame.ErrSequence}},
		{"final frame alone", whole[4], []error{frame.ErrSequence}},
		{"final frame twice", join(append(whole, whole[4])...), []error{frame.ErrTrailingData}},
		{"a byte more", append(join(whole...), 0), []error{frame.ErrTrailingData}},
		{"IV", changed(2, 4), []error{frame.ErrAuthentication}},
		{"ciphertext", changed(2, 16), []error{frame.ErrAuthentication}},
		{"tag", changed(2, 16+16+15), []error{frame.ErrAuthentication}},
		{"final IV", changed(4, 8), []error{frame.ErrAuthentication}},
		{"final ciphertext", changed(4, 24), []error{frame.ErrAuthentication}},
		{"final tag", changed(4, 24+5+15), []error{frame.ErrAuthentication}},
		{"final frame over the frame length", join(append(append([][]byte{}, whole[:4]...), long)...), []error{frame.ErrMalformed}},
		{"frame of another message", join(whole[0], handmade(other, plaintext, false)[1], whole[2], whole[3], whole[4]), []error{frame.ErrAuthentication}},
		{"number 0", append(make([]byte, 4), whole[0][4:]...), []error{frame.ErrSequence}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { requireRefused(t, c, tt.sealed, plaintext, tt.want...) })
	}
}

// A final frame is authenticated as one: no regular frame passes for it, nor it for a regular one.
func TestFrameKindsAreAuthenticated(t *testing.T) {
	c := config(16)
	plaintext := pattern(3 * c.Length)
	whole := handmade(c, plaintext, true)

	asFinal := append([]byte{0xff, 0xff, 0xff, 0xff}, whole[1][:16]...)
	asFinal = append(binary.BigEndian.AppendUint32(asFinal, 16), whole[1][16:]...)
	requireRefused(t, c, bytes.Join([][]byte{whole[0], asFinal}, nil), plaintext, frame.ErrAuthentication)

	asRegular := append(bytes.Clone(whole[2][4:20]), whole[2][24:]...)
	last := handmade(c, pattern(4*c.Length), true)[3]
	requireRefused(t, c, bytes.Join([][]byte{whole[0], whole[1], asRegular, last}, nil), plaintext, frame.ErrAuthentication)
}

// Early writers drew their IVs. The stored IV is what the frame opens under, so a changed one is
// refused by the tag.
func TestDrawnIV(t *testing.T) {
	c := config(16)
	content := pattern(5)
	additional := append(bytes.Clone(c.MessageID), "AWSKMSEncryptionClient Final Frame\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x05"...)
	iv := bytes.Repeat([]byte{9}, 12)
	sealed := append([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1}, iv...)
	sealed = c.AEAD.Seal(append(sealed, 0, 0, 0, 5), iv, content, additional)
	got, err := io.ReadAll(frame.NewOpenReader(bytes.NewReader(sealed), c))
	require.NoError(t, err)
	require.Equal(t, content, got)
	for at := 8; at < 20; at++ {
		changed := bytes.Clone(sealed)
		changed[at] ^= 1
		requireRefused(t, c, changed, nil, frame.ErrAuthentication)
	}
}

// Neither a caller's buffer nor a destination sees plaintext of a frame that was changed.
func TestNoByteOfABadFrameIsReleased(t *testing.T) {
	c := config(64)
	plaintext := pattern(3 * c.Length)
	sealed := body(c, plaintext)
	tagOf2 := 2*(c.Length+frame.RegularOverhead) - 1
	sealed[tagOf2] ^= 1
	secret := plaintext[c.Length:]
	leaks := func(p []byte) bool {
		for i := 0; i+8 <= len(secret); i++ {
			if bytes.Contains(p, secret[i:i+8]) {
				return true
			}
		}
		return false
	}
	for _, size := range []int{1, 16, 63, 64, 65, 200, 4096} {
		r := frame.NewOpenReader(bytes.NewReader(sealed), c)
		released := 0
		for {
			p := make([]byte, size)
			n, err := r.Read(p)
			released += n
			require.False(t, leaks(p), "reading by %d: the buffer holds plaintext of the bad frame", size)
			if err != nil {
				require.Zero(t, n)
				require.ErrorIs(t, err, frame.ErrAuthentication)
				break
			}
		}
		require.Equal(t, c.Length, released)
		for range 2 {
			p := make([]byte, size)
			n, err := r.Read(p)
			require.Zero(t, n)
			require.ErrorIs(t, err, frame.ErrAuthentication)
			require.False(t, leaks(p))
		}
		_, err := r.WriteTo(io.Discard)
		require.ErrorIs(t, err, frame.ErrAuthentication, "the error is sticky")
	}
	var out bytes.Buffer
	w := frame.NewOpenWriter(&out, c)
	_, err := w.Write(sealed)
	require.ErrorIs(t, err, frame.ErrAuthentication)
	require.ErrorIs(t, w.Close(), frame.ErrAuthentication)
	require.Equal(t, plaintext[:c.Length], out.Bytes())
}

// The final frame waits until the end of the input is seen.
func TestFinalFrameWaitsForTheEnd(t *testing.T) {
	c := config(64)
	sealed := append(body(c, pattern(30)), 'x')
	for _, open := range openWays {
		got, err := open.run(c, bytes.NewReader(sealed), always(10))
		require.ErrorIs(t, err, frame.ErrTrailingData, open.name)
		require.Empty(t, got, open.name)
	}
}
