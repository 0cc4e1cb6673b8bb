package blobstorage

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"
	"gocloud.dev/gcerrors"

	"piko.sh/pikokms"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// A string of the application, and a message of another tool, are no objects of the bucket.
func TestWhatIsNoObjectIsRefusedAtEveryDoor(t *testing.T) {
	key, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{7}, 32)})
	require.NoError(t, err)
	defer key.Close()
	stored := memblob.OpenBucket(nil)
	encrypting, err := Encrypt(stored, underKey(t)...)
	require.NoError(t, err)
	defer encrypting.Close()
	e := message.Encrypter{Keyring: key}
	asString, err := e.Encrypt(t.Context(), bytes.Repeat([]byte("a string "), 100), map[string]string{provider.PairUse: provider.UseString})
	require.NoError(t, err)
	foreign, err := e.Encrypt(t.Context(), []byte("of another tool"), nil)
	require.NoError(t, err)
	for name, planted := range map[string][]byte{"a string": asString, "a foreign message": foreign} {
		require.NoError(t, stored.WriteAll(t.Context(), "object", planted, nil))
		for door, err := range map[string]error{
			"ReadAll":         second(encrypting.ReadAll(t.Context(), "object")),
			"NewRangeReader":  second(encrypting.NewRangeReader(t.Context(), "object", 2, 3, nil)),
			"Attributes":      second(encrypting.Attributes(t.Context(), "object")),
			"Copy and read":   copyAndRead(t, encrypting),
			"NewReader at 0":  second(encrypting.NewReader(t.Context(), "object", nil)),
			"a range of none": second(encrypting.NewRangeReader(t.Context(), "object", 0, 0, nil)),
		} {
			require.Error(t, err, "%s of %s", door, name)
			require.ErrorIs(t, err, pikokms.ErrNotObject, "%s of %s", door, name)
			require.Equal(t, gcerrors.FailedPrecondition, gcerrors.Code(err), "%s of %s", door, name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func copyAndRead(t *testing.T, bucket *blob.Bucket) error {
	if err := bucket.Copy(t.Context(), "copy", "object", nil); err != nil {
		return err
	}
	return second(bucket.ReadAll(t.Context(), "copy"))
}
