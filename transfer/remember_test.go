package transfer_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/transfer"
)

func TestRemember(t *testing.T) {
	sent, isSent := transfer.Remember(iotest.OneByteReader(strings.NewReader("content")))
	require.False(t, isSent(stored(strings.NewReader(""))), "it is not sent yet")
	_, err := io.ReadAll(sent)
	require.NoError(t, err)
	for text, is := range map[string]bool{"content": true, "": false, "contenT": false, "conten": false, "content ": false} {
		require.Equal(t, is, isSent(stored(strings.NewReader(text))), text)
	}
	require.True(t, isSent(stored(strings.NewReader("content"))), "it is asked again")
	require.False(t, isSent(stored(io.MultiReader(strings.NewReader("content"), iotest.ErrReader(errors.New("lost"))))))

	require.False(t, isSent(func() (io.ReadCloser, error) { return nil, errors.New("lost") }))

	cut, isSent := transfer.Remember(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("content"))))
	_, err = io.ReadAll(cut)
	require.Error(t, err)
	require.False(t, isSent(stored(strings.NewReader("c"))), "what was sent is not the whole")
}

func stored(r io.Reader) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(r), nil }
}
