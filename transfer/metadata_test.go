package transfer_test

import (
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/transfer"
)

func TestMetadataOfTheHeadersSize(t *testing.T) {
	key, err := local.NewProvider(local.Config{Key: make([]byte, 32)})
	require.NoError(t, err)
	defer key.Close()
	e := message.Encrypter{Keyring: key}
	plain, err := e.NewReader(t.Context(), strings.NewReader("content"), nil)
	require.NoError(t, err)
	size := strconv.Itoa(plain.Header().Size())
	require.Equal(t, map[string]string{transfer.HeaderSizeKey: size}, transfer.SetHeaderSize(nil, transfer.HeaderSizeKey, plain))

	host, err := pikokms.New(pikokms.WithCryptoProvider("local", key), pikokms.WithEnabledTransformers("zstd"))
	require.NoError(t, err)
	compressed, err := host.EncryptObject(t.Context(), "a", strings.NewReader("content"), nil)
	require.NoError(t, err)
	shorter := e
	shorter.FrameLength = 4096
	framed, err := shorter.NewReader(t.Context(), strings.NewReader("content"), nil)
	require.NoError(t, err)
	e.Suite = header.AES256GCMHKDFSHA512CommitKeyECDSAP384
	signed, err := e.NewReader(t.Context(), strings.NewReader("content"), nil)
	require.NoError(t, err)
	for name, content := range map[string]any{
		"compressed": compressed, "frames of another length": framed, "signed": signed, "not encrypted": strings.NewReader("content"),
	} {
		old := map[string]string{"Pikokms-Header-Size": "1", "owner": "x"}
		require.Equal(t, map[string]string{"owner": "x"}, transfer.SetHeaderSize(old, transfer.HeaderSizeKey, content.(io.Reader)), name)
	}
}
