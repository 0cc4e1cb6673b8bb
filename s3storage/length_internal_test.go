package s3storage

import (
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/s3ec"
)

// The size of what AWS's S3 Encryption Client wrote is known, and so it is uploaded in one part's
// memory.
func TestLengthOfAClientsContent(t *testing.T) {
	content := &s3ec.Content{SectionReader: io.NewSectionReader(strings.NewReader("content"), 0, 7)}
	require.EqualValues(t, 7, lengthOf(content))
	require.EqualValues(t, 7, lengthOf(&s3ec.Moved{Reader: content, Content: content}))
	_, err := content.Read(make([]byte, 3))
	require.NoError(t, err)
	require.EqualValues(t, 4, lengthOf(content))
	require.EqualValues(t, -1, lengthOf(strings.NewReader("content")))
}
