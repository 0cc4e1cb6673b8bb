package verbs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	azure "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/internal/cloudtest"
	"piko.sh/pikokms/provider/local"
)

// TestCloudsInPlace encrypts, moves and decrypts objects in GCS and Azure in place, whatever their
// names are. They keep everything but their content.
func TestCloudsInPlace(t *testing.T) {
	cloudtest.InEach(t, func(t *testing.T, c cloudtest.Cloud) {
		marker := []byte("PLAINTEXT-MARKER ")
		var zipped bytes.Buffer
		z := gzip.NewWriter(&zipped)
		_, err := z.Write(bytes.Repeat(marker, 5000))
		require.NoError(t, errors.Join(err, z.Close()))
		contents := map[string][]byte{"a.txt": bytes.Repeat(marker, 5000), "empty": {}, "zipped": zipped.Bytes(), "large": bytes.Repeat(marker, 20<<20/len(marker))}
		for _, name := range []string{
			`100%`, `what?`, `a#b`, `"quoted"`, `%41`, `ü & + x.txt`, "a__0x2b__b", "a+b", "a__0x2f__b", "a/b", "sp ace/", "..x", "x..", "a;b=c", strings.Repeat("n", 900), "__0x41__", "a//b",
		} {
			contents[name] = append(bytes.Clone(marker), name...)
		}
		if c.GCS != nil {
			contents["x/../y"] = append(bytes.Clone(marker), "x/../y"...)
		}
		before := make(map[string]map[string]any)
		for name, content := range contents {
			encoding := ""
			if name == "zipped" {
				encoding = "gzip"
			}
			c.Put(t, name, content, encoding)
			_, before[name] = c.State(t, name)
			require.Equal(t, cloudtest.Metadata, before[name]["metadata"])
		}
		c.Put(t, "folder/", nil, "") // as consoles of clouds make them
		check := func(encrypted bool) {
			require.ElementsMatch(t, append(slices.Collect(maps.Keys(contents)), "folder/"), c.Names(t))
			for name, content := range contents {
				stored, after := c.State(t, name)
				require.Equal(t, before[name], after, name)
				if encrypted {
					require.False(t, bytes.Contains(stored, marker), name)
					require.Greater(t, len(stored), len(content), name)
				} else {
					require.True(t, bytes.Equal(content, stored), name)
				}
			}
		}
		old, renewed := filepath.Join(t.TempDir(), "old.key"), filepath.Join(t.TempDir(), "new.key")
		require.NoError(t, errors.Join(local.Generate(old), local.Generate(renewed)))
		for _, arguments := range [][]string{
			{"encrypt", "-k", "local:" + old, "--in-place", c.Place},
			{"verify", "-k", "local:" + old, c.Place},
			{"rewrap", "-k", "local:" + old, "--to", "local:" + renewed, "--in-place", c.Place},
			{"verify", "-k", "local:" + renewed, c.Place},
		} {
			_, stderr, _, err := execute(t, arguments...)
			require.NoError(t, err, stderr)
			require.Contains(t, stderr, fmt.Sprintf("%d objects", len(contents)), arguments)
			check(true)
		}
		part, stderr, _, err := execute(t, "cat", "-k", "local:"+renewed, "--range", "17000000-17000099", c.At("large"))
		require.NoError(t, err, stderr)
		require.Equal(t, string(contents["large"][17000000:17000100]), part)
		out := t.TempDir()
		_, stderr, _, err = execute(t, "decrypt", "-k", "local:"+renewed, "-o", out, "--include", "a__*", c.Place)
		require.NoError(t, err, stderr)
		got, err := os.ReadFile(filepath.Join(out, "a__0x2b__b"))
		require.NoError(t, err)
		require.Equal(t, contents["a__0x2b__b"], got)
		_, stderr, _, err = execute(t, "decrypt", "-k", "local:"+renewed, "--in-place", c.Place)
		require.NoError(t, err, stderr)
		check(false)
	})
}

// TestAppendAndPageBlobsStay checks that append and page blobs stay what they are, and are named.
// The other objects are worked on.
func TestAppendAndPageBlobsStay(t *testing.T) {
	cloudtest.InEach(t, func(t *testing.T, c cloudtest.Cloud) {
		if c.Azure == nil {
			t.Skip("skipped: GCS has no such objects")
		}
		key := filepath.Join(t.TempDir(), "a.key")
		require.NoError(t, local.Generate(key))
		log := c.Azure.NewAppendBlobClient(c.Prefix + "app.log")
		_, err := log.Create(t.Context(), nil)
		require.NoError(t, err)
		appendLine := func() {
			_, err := log.AppendBlock(t.Context(), streaming.NopCloser(strings.NewReader("a line\n")), nil)
			require.NoError(t, err)
		}
		appendLine()
		disk := c.Azure.NewPageBlobClient(c.Prefix + "disk.vhd")
		_, err = disk.Create(t.Context(), 512, nil)
		require.NoError(t, err)
		c.Put(t, "usual", []byte("usual"), "")
		_, stderr, _, err := execute(t, "encrypt", "-k", "local:"+key, "--in-place", c.Place)
		require.Error(t, err)
		for _, name := range []string{"app.log", "disk.vhd"} {
			require.Contains(t, stderr, name)
		}
		require.Contains(t, stderr, "it is of type AppendBlob")
		require.Contains(t, stderr, "it is of type PageBlob")
		require.Contains(t, stderr, "encrypted 1 object of 5 bytes, 2 failed")
		appendLine()
		p, err := disk.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, azure.BlobTypePageBlob, *p.BlobType)
		content, _ := c.Azure.NewBlobClient(c.Prefix+"app.log").DownloadStream(t.Context(), nil)
		got := new(bytes.Buffer)
		_, err = got.ReadFrom(content.Body)
		require.NoError(t, err)
		require.Equal(t, "a line\na line\n", got.String())

		_, stderr, _, err = execute(t, "encrypt", "-k", "local:"+key, "-f", "-o", c.At("app.log"), "clouds_test.go")
		require.Error(t, err)
		require.Contains(t, stderr+err.Error(), "a replacement would be a block blob, and it is none")
		appendLine()
	})
}
