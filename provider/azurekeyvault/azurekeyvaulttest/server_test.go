package azurekeyvaulttest

import (
	"encoding/hex"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/exported"
)

func TestExported(t *testing.T) { exported.Test(t) }

// The vectors are those of RFC 3394, sections 4.3, 4.5 and 4.6.
func TestAESKeyWrap(t *testing.T) {
	decode := func(text string) []byte {
		b, err := hex.DecodeString(text)
		require.NoError(t, err)
		return b
	}
	const key = "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F"
	for value, wrapped := range map[string]string{
		"00112233445566778899AABBCCDDEEFF":                                 "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7",
		"00112233445566778899AABBCCDDEEFF0001020304050607":                 "A8F9BC1612C68B3FF6E6F4FBE30E71E4769C8B80A32CB8958CD5D17D6B254DA1",
		"00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F": "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21",
	} {
		got, err := wrapAES(decode(key), decode(value))
		require.NoError(t, err)
		require.Equal(t, decode(wrapped), got)
		got, err = unwrapAES(decode(key), decode(wrapped))
		require.NoError(t, err)
		require.Equal(t, decode(value), got)
		for i := range decode(wrapped) {
			changed := decode(wrapped)
			changed[i] ^= 1
			_, err = unwrapAES(decode(key), changed)
			require.Error(t, err)
		}
	}
	for _, n := range []int{0, 8, 15, 17} {
		_, err := wrapAES(decode(key), make([]byte, n))
		require.Error(t, err)
		_, err = unwrapAES(decode(key), make([]byte, n))
		require.Error(t, err)
	}
}

// Azure's own client meets the checks of a vault.
func TestChecks(t *testing.T) {
	server := NewServer(t)
	client, err := azkeys.NewClient(server.URL, nil, nil)
	require.NoError(t, err)
	rsaKey, aesKey := server.CreateKey(Key{}), server.CreateKey(Key{Type: "oct-HSM"})
	wrap := func(name, version string, algorithm azkeys.EncryptionAlgorithm, value []byte) error {
		_, err := client.WrapKey(t.Context(), name, version, azkeys.KeyOperationParameters{Algorithm: &algorithm, Value: value}, nil)
		return err
	}
	require.NoError(t, wrap(rsaKey, "", azkeys.EncryptionAlgorithmRSAOAEP256, make([]byte, 190)))
	require.NoError(t, wrap(aesKey, "", azkeys.EncryptionAlgorithmA256KW, make([]byte, 200)))
	for status, errs := range map[int][]error{
		400: {
			wrap(rsaKey, "", azkeys.EncryptionAlgorithmRSAOAEP256, make([]byte, 191)),
			wrap(rsaKey, "", azkeys.EncryptionAlgorithmA256KW, make([]byte, 32)),
			wrap(aesKey, "", azkeys.EncryptionAlgorithmRSAOAEP256, make([]byte, 32)),
			wrap(aesKey, "", azkeys.EncryptionAlgorithmA256KW, make([]byte, 31)),
			wrap(aesKey, "", azkeys.EncryptionAlgorithmA256KW, nil),
		},
		404: {wrap("none", "", azkeys.EncryptionAlgorithmA256KW, make([]byte, 32)), wrap(aesKey, "none", azkeys.EncryptionAlgorithmA256KW, make([]byte, 32))},
	} {
		for _, err := range errs {
			failed, ok := err.(*azcore.ResponseError)
			require.True(t, ok)
			require.Equal(t, status, failed.StatusCode)
		}
	}
}
