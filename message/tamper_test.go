package message_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

const tamperFrame = 64

// split cuts a message of tamperFrame-byte frames into its header and frames.
func split(t *testing.T, sealed []byte) (head []byte, frames [][]byte) {
	t.Helper()
	_, size, err := header.Parse(sealed, header.Limits{})
	require.NoError(t, err)
	head, rest := sealed[:size:size], sealed[size:]
	for binary.BigEndian.Uint32(rest) != 1<<32-1 {
		n := tamperFrame + frame.RegularOverhead
		frames = append(frames, rest[:n:n])
		rest = rest[n:]
	}
	return head, append(frames, rest)
}

func TestTampering(t *testing.T) {
	race.SkipShort(t)
	key := newKey(t, 1, "first")
	e := &message.Encrypter{Keyring: key, Recipients: []provider.Wrapper{newKey(t, 2, "second")}, FrameLength: tamperFrame}
	encryptionContext := map[string]string{"tenant": "acme"}
	for name, n := range map[string]int{"last frame partial": 5*tamperFrame + 21, "whole frames": 5 * tamperFrame, "one frame": 30, "no plaintext": 0} {
		t.Run(name, func(t *testing.T) {
			plaintext := pattern(n)
			otherPlaintext := bytes.Repeat([]byte{0xEE}, n)
			sealed := encrypt(t, e, plaintext, encryptionContext)
			head, frames := split(t, sealed)
			otherHead, otherFrames := split(t, encrypt(t, e, otherPlaintext, encryptionContext))
			require.Len(t, otherFrames, len(frames))

			cases, refusals := 0, 0
			refuse := func(kind string, changed []byte) {
				t.Helper()
				cases++
				for way, decrypt := range decryptWays {
					pieces := []int{37}
					if way != "WriteTo" {
						pieces = append(pieces, 4096)
					}
					for _, piece := range pieces {
						got, err := decrypt(context.Background(), decrypter(key), bytes.NewReader(changed), nil, piece)
						if err == nil {
							t.Fatalf("%s by %s: accepted", kind, way)
						}
						// In plain Go: testify's checks would take most of the time of so many
						// cases.
						if !bytes.HasPrefix(plaintext, got) || len(got)%tamperFrame != 0 {
							t.Fatalf("%s by %s: %d bytes released that are no whole frames of the plaintext", kind, way, len(got))
						}
						refusals++
					}
				}
			}
			report := func(what string) {
				t.Logf("%-40s %6d changed messages, %6d refusals", what, cases, refusals)
				require.NotZero(t, cases)
				cases, refusals = 0, 0
			}
			join := func(head []byte, frames ...[]byte) []byte { return bytes.Join(append([][]byte{head}, frames...), nil) }

			for n := range len(sealed) {
				refuse("cut", sealed[:n])
			}
			report("cut at every length")

			changed := bytes.Clone(sealed)
			for i := range changed {
				for bit := range 8 {
					if race.Enabled {
						break // the inverted byte takes the same way
					}
					changed[i] ^= 1 << bit
					refuse("flipped bit", changed)
					changed[i] ^= 1 << bit
				}
				changed[i] ^= 0xff
				refuse("inverted byte", changed)
				changed[i] ^= 0xff
			}
			report("each bit (but for the race detector) and each whole byte flipped")

			for i := range len(sealed) + 1 {
				for _, b := range []byte{0, 0xff} {
					refuse("inserted byte", slices.Insert(bytes.Clone(sealed), i, b))
				}
			}
			report("a byte inserted or appended")

			for i := range sealed {
				refuse("dropped byte", slices.Delete(bytes.Clone(sealed), i, i+1))
			}
			report("a byte dropped")

			refuse("appended message", append(bytes.Clone(sealed), sealed...))
			refuse("appended final frame", append(bytes.Clone(sealed), frames[len(frames)-1]...))
			report("a message or frame appended")

			if len(frames) > 1 {
				for i := range frames {
					for j := range i {
						swapped := slices.Clone(frames)
						swapped[i], swapped[j] = swapped[j], swapped[i]
						refuse("swapped frames", join(head, swapped...))
					}
				}
				report("two frames swapped")
			}
			for i := range frames {
				for j := range len(frames) + 1 {
					refuse("repeated frame", join(head, slices.Insert(slices.Clone(frames), j, frames[i])...))
				}
			}
			report("a frame repeated anywhere")
			for i := range frames {
				for j := i + 1; j <= len(frames); j++ {
					refuse("dropped frames", join(head, slices.Delete(slices.Clone(frames), i, j)...))
				}
			}
			report("a run of frames dropped")

			for i := range frames {
				for j := range otherFrames {
					spliced := slices.Clone(frames)
					spliced[i] = otherFrames[j]
					refuse("spliced frame", join(head, spliced...))
				}
				refuse("spliced rest", join(head, append(slices.Clone(frames[:i]), otherFrames[i:]...)...))
			}
			report("frames of another message spliced in")

			refuse("other header", join(otherHead, frames...))
			refuse("other body", join(head, otherFrames...))
			for _, part := range [][2]int{{3, 35}, {len(head) - 48, len(head) - 16}, {len(head) - 16, len(head)}} {
				mixed := bytes.Clone(head)
				copy(mixed[part[0]:part[1]], otherHead[part[0]:])
				refuse("part of another header", join(mixed, frames...))
			}
			report("another message's header or a part of it")

			for i, f := range frames[:len(frames)-1] {
				asFinal := append([]byte{0xff, 0xff, 0xff, 0xff}, f[:16]...)
				asFinal = append(binary.BigEndian.AppendUint32(asFinal, tamperFrame), f[16:]...)
				refuse("regular frame as the final one", join(head, append(slices.Clone(frames[:i]), asFinal)...))
			}
			empty := append([]byte{0xff, 0xff, 0xff, 0xff}, 0, 0, 0, byte(len(frames)))
			empty = binary.BigEndian.AppendUint32(append(empty, make([]byte, 8)...), uint32(len(frames)))
			empty = append(empty, make([]byte, 4+16)...)
			refuse("empty final frame forged", join(head, append(slices.Clone(frames[:len(frames)-1]), empty)...))
			report("a final frame forged")
		})
	}
}

// A recipient can read a message but makes no new one of it by adding a key of its own: the header
// is sealed.
func TestAddedKeyIsRefused(t *testing.T) {
	key, intruder := newKey(t, 1, "first"), newKey(t, 2, "second")
	sealed := encrypt(t, &message.Encrypter{Keyring: key}, []byte("text"), nil)
	h, size, err := header.Parse(sealed, header.Limits{})
	require.NoError(t, err)
	other, _, err := header.Parse(encrypt(t, &message.Encrypter{Keyring: intruder}, nil, nil), header.Limits{})
	require.NoError(t, err)
	for _, keys := range [][]header.EncryptedDataKey{
		append(slices.Clone(h.EncryptedDataKeys), other.EncryptedDataKeys...),
		append(slices.Clone(other.EncryptedDataKeys), h.EncryptedDataKeys...),
		other.EncryptedDataKeys,
	} {
		changed := *h
		changed.EncryptedDataKeys = keys
		b := append(serialise(t, changed), sealed[size:]...)
		for name, way := range decryptWays {
			_, err := way(context.Background(), decrypter(key, intruder), bytes.NewReader(b), nil, 100)
			require.ErrorIs(t, err, provider.ErrDecryptionFailed, name)
			_, err = way(context.Background(), decrypter(intruder), bytes.NewReader(b), nil, 100)
			require.ErrorIs(t, err, provider.ErrDecryptionFailed, "%s: the data key is not the one committed to", name)
		}
	}
}

func TestErrorsSayWhoseFaultItIs(t *testing.T) {
	key := newKey(t, 1, "")
	sealed := encrypt(t, &message.Encrypter{Keyring: key, FrameLength: tamperFrame}, pattern(200), map[string]string{"tenant": "acme"})
	head, frames := split(t, sealed)
	flip := func(i int) []byte {
		b := bytes.Clone(sealed)
		b[i] ^= 1
		return b
	}
	for name, tt := range map[string]struct {
		sealed []byte
		want   []error
	}{
		"cut":             {sealed[:len(sealed)-1], []error{provider.ErrInvalidCiphertext, frame.ErrTruncated}},
		"cut in header":   {sealed[:len(head)-1], []error{provider.ErrInvalidCiphertext, header.ErrMalformed}},
		"message ID":      {flip(5), []error{provider.ErrDecryptionFailed, header.ErrAuthentication}},
		"commitment":      {flip(len(head) - 20), []error{provider.ErrDecryptionFailed, header.ErrAuthentication}},
		"header tag":      {flip(len(head) - 1), []error{provider.ErrDecryptionFailed, header.ErrAuthentication}},
		"context":         {flip(43), []error{provider.ErrDecryptionFailed}},
		"frame":           {flip(len(head) + 40), []error{provider.ErrDecryptionFailed, frame.ErrAuthentication}},
		"frame missing":   {bytes.Join(append([][]byte{head}, frames[1:]...), nil), []error{provider.ErrDecryptionFailed, frame.ErrSequence}},
		"trailing data":   {append(bytes.Clone(sealed), 1), []error{provider.ErrDecryptionFailed, frame.ErrTrailingData}},
		"not our message": {[]byte("hello"), []error{provider.ErrInvalidCiphertext, header.ErrNotMessage}},
	} {
		for way, decrypt := range decryptWays {
			_, err := decrypt(context.Background(), decrypter(key), bytes.NewReader(tt.sealed), nil, 100)
			for _, want := range tt.want {
				require.ErrorIs(t, err, want, "%s by %s", name, way)
			}
		}
	}
}
