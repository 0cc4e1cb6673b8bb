package adversary_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/race"
)

// TestChangedObjects reads stored objects that were changed, by every way out of a host. Each is an
// error, and Rewrap leaves them as they are.
func TestChangedObjects(t *testing.T) {
	race.SkipShort(t)
	total := 5_000
	if race.Enabled || testing.Short() {
		total = 500
	}
	key := newKey(t, 1, "")
	r := rand.New(rand.NewPCG(2, 6))
	refusals := 0
	formats := append([]string{""}, compress.Formats()...)
	for _, format := range formats {
		memory := adversary.NewMemory()
		options := []pikokms.Option{
			pikokms.WithStorage(memory), pikokms.WithCryptoProvider("k", key), pikokms.WithDefaultCryptoProvider("k"),
			pikokms.WithMaxDecompressedSize(1 << 20), pikokms.WithParallelism(1), pikokms.BindObjectName("b"),
		}
		if format != "" {
			options = append(options, pikokms.WithEnabledTransformers(format))
		}
		h, err := pikokms.New(options...)
		require.NoError(t, err)
		var objects []*adversary.Message
		for i, size := range []int{0, 1, 1000, 65_536, 150_000} {
			content := pattern(byte(i), size)
			require.NoError(t, h.Put(t.Context(), "object", bytes.NewReader(content)))
			m, err := adversary.Split(memory.Bytes("object"), content)
			require.NoError(t, err)
			objects = append(objects, m)
		}
		doors := map[string]func() ([]byte, error){
			"Get": func() ([]byte, error) {
				r, err := h.Get(t.Context(), "object")
				if err != nil {
					return nil, err
				}
				got, err := io.ReadAll(r)
				return got, errors.Join(err, r.Close())
			},
			"Open": func() ([]byte, error) {
				o, err := h.Open(t.Context(), "object")
				if err != nil {
					return nil, err
				}
				got, err := io.ReadAll(o)
				return got, errors.Join(err, o.Close())
			},
			"DecryptObject": func() ([]byte, error) {
				b := memory.Bytes("object")
				r, _, err := h.DecryptObject(t.Context(), "object", bytes.NewReader(b), int64(len(b)), nil)
				if err != nil {
					return nil, err
				}
				return io.ReadAll(r)
			},
			"Rewrap": func() ([]byte, error) { return nil, h.Rewrap(t.Context(), "object") },
		}
		for range total / len(formats) {
			m := objects[r.IntN(len(objects))]
			kind, changed := m.Mutate(r, objects[r.IntN(len(objects))])
			require.NoError(t, memory.Put(t.Context(), "object", bytes.NewReader(changed)))
			for name, door := range doors {
				got, err := door()
				if err == nil {
					t.Fatalf("%s, %s, by %s: accepted", format, kind.Name, name)
				}
				if len(got) > 0 && !prefixOfAny(objects, got) {
					t.Fatalf("%s, %s, by %s: %d bytes released that nobody put", format, kind.Name, name, len(got))
				}
				refusals++
			}
			if !bytes.Equal(changed, memory.Bytes("object")) {
				t.Fatalf("%s, %s: it was replaced", format, kind.Name)
			}
		}
		require.NoError(t, h.Close())
	}
	t.Logf("%d changed objects, %d refusals, 0 accepted", total, refusals)
}

func prefixOfAny(objects []*adversary.Message, got []byte) bool {
	for _, m := range objects {
		if bytes.HasPrefix(m.Plaintext, got) {
			return true
		}
	}
	return false
}
