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

func TestAFailedSourceIsNotReadAgain(t *testing.T) {
	lost := errors.New("the connection is lost")
	source := &once{io.MultiReader(strings.NewReader("half"), iotest.ErrReader(lost)), nil}
	r := transfer.NewReader(source)
	content, err := io.ReadAll(r)
	require.ErrorIs(t, err, lost)
	require.Equal(t, "half", string(content))
	_, err = r.Read(make([]byte, 1))
	require.ErrorIs(t, err, lost)
}

// once fails once, and is at its end then, as is the body of an HTTP request.
type once struct {
	io.Reader
	failed error
}

func (r *once) Read(p []byte) (int, error) {
	if r.failed != nil {
		return 0, io.EOF
	}
	n, err := r.Reader.Read(p)
	r.failed = err
	return n, err
}
