package pikokms_test

import (
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
)

func TestMetadataOfTheHeadersSize(t *testing.T) {
	e := message.Encrypter{Keyring: newLocal(t, "local", 1)}
	plain, err := e.NewReader(t.Context(), strings.NewReader("content"), nil)
	require.NoError(t, err)
	size := strconv.Itoa(plain.Header().Size())
	require.Equal(t, map[string]string{pikokms.MetadataKey: size}, pikokms.SetHeaderSize(nil, pikokms.MetadataKey, plain))

	compressed, err := newFixture(t, pikokms.WithEnabledTransformers("zstd")).EncryptObject(t.Context(), "a", strings.NewReader("content"), nil)
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
		require.Equal(t, map[string]string{"owner": "x"}, pikokms.SetHeaderSize(old, pikokms.MetadataKey, content.(io.Reader)), name)
	}
}
