package pikostorage_test

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/message"
)

// TestCopiesMakeNothingAuthentic copies and renames what somebody planted, while all that is from
// before may be read.
func TestCopiesMakeNothingAuthentic(t *testing.T) {
	k, behind := newKeys(t)
	e := message.Encrypter{Keyring: behind, Required: []string{pikokms.PairBucket, pikokms.PairObject}}
	r, err := e.NewReader(t.Context(), bytes.NewReader([]byte("for another purpose")), map[string]string{pikokms.PairBucket: "app", pikokms.PairObject: "default/planted"})
	require.NoError(t, err)
	foreign, err := io.ReadAll(r)
	require.NoError(t, err)
	for name, content := range map[string][]byte{"plaintext": document(1000), "a foreign message": foreign} {
		for way, move := range map[string]func(p storage.ProviderPort) error{
			"Copy":   func(p storage.ProviderPort) error { return p.Copy(t.Context(), "default", "planted", "invoice") },
			"Rename": func(p storage.ProviderPort) error { return p.Rename(t.Context(), "default", "planted", "invoice") },
			"CopyToAnotherRepository": func(p storage.ProviderPort) error {
				return p.CopyToAnotherRepository(t.Context(), "other", "planted", "default", "invoice")
			},
		} {
			inner := newShelf(true)
			for _, repository := range []string{"default", "other"} {
				params := upload("planted", content)
				params.Repository = repository
				require.NoError(t, inner.Put(t.Context(), params))
			}
			lenient := encryptWith(t, inner, k, pikokms.BindObjectName("app"), pikokms.AllowPlaintext(), pikokms.AllowForeignMessages())
			require.NoError(t, move(lenient), "%s of %s", way, name)
			require.Equal(t, content, inner.objects[place("default", "invoice")].content, "%s of %s: as it is", way, name)
			requireUnreadable(t, encryptWith(t, inner, k, pikokms.BindObjectName("app")), "default", "invoice")
		}
	}
}

// swapping plants plaintext once the first bytes of an object were looked at.
type swapping struct{ *shelf }

func (s swapping) Get(ctx context.Context, params storage.GetParams) (io.ReadCloser, error) {
	if params.ByteRange == nil {
		if err := s.Put(ctx, upload(params.Key, document(1000))); err != nil {
			return nil, err
		}
	}
	return s.shelf.Get(ctx, params)
}

// TestCopyOfWhatIsSwappedMeanwhile replaces an object by plaintext between two requests of a copy.
func TestCopyOfWhatIsSwappedMeanwhile(t *testing.T) {
	inner := newShelf(true)
	k, _ := newKeys(t)
	p := encryptWith(t, swapping{inner}, k, pikokms.BindObjectName("app"), pikokms.AllowPlaintext())
	require.NoError(t, p.Put(t.Context(), upload("a", document(1000))))
	require.ErrorIs(t, p.Copy(t.Context(), "default", "a", "b"), pikokms.ErrPlaintext)
	require.NotContains(t, inner.objects, place("default", "b"))
}
