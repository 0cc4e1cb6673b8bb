package places

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAFolderIsLimited checks that a folder has the limit of its place: a file system may go
// silent, too.
func TestAFolderIsLimited(t *testing.T) {
	p, err := Opener{Timeout: time.Minute}.OpenFolder(t.TempDir())
	require.NoError(t, err)
	defer p.Close()
	inner, ok := p.objects.(*folderObjects)
	require.True(t, ok)
	require.NotEqual(t, fmt.Sprintf("%T", inner.folder), fmt.Sprintf("%T", inner.Folder))
	require.NoError(t, inner.Put(context.Background(), "a", strings.NewReader("hello")))
}
