package command

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	azure "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/s3storage"
)

// Append and page blobs stay what they are, and are named. Everything else is worked on.
func TestAppendAndPageBlobsStay(t *testing.T) {
	inEachCloud(t, func(t *testing.T, c cloud) {
		if c.azure == nil {
			t.Skip("skipped: GCS has no such objects")
		}
		key := filepath.Join(t.TempDir(), "a.key")
		require.NoError(t, local.Generate(key))
		log := c.azure.client.NewAppendBlobClient(c.azure.prefix + "app.log")
		_, err := log.Create(t.Context(), nil)
		require.NoError(t, err)
		appendLine := func() {
			_, err := log.AppendBlock(t.Context(), streaming.NopCloser(strings.NewReader("a line\n")), nil)
			require.NoError(t, err)
		}
		appendLine()
		disk := c.azure.client.NewPageBlobClient(c.azure.prefix + "disk.vhd")
		_, err = disk.Create(t.Context(), 512, nil)
		require.NoError(t, err)
		c.put(t, "usual", []byte("usual"), "")
		_, stderr, _, err := execute(t, "encrypt", "-k", "local:"+key, "--in-place", c.place)
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
		content, _ := c.azure.blob("app.log").DownloadStream(t.Context(), nil)
		got := new(bytes.Buffer)
		_, err = got.ReadFrom(content.Body)
		require.NoError(t, err)
		require.Equal(t, "a line\na line\n", got.String())

		_, stderr, _, err = execute(t, "encrypt", "-k", "local:"+key, "-f", "-o", c.at("app.log"), "clouds_kept_test.go")
		require.Error(t, err)
		require.Contains(t, stderr+err.Error(), errNotBlockBlob.Error())
		appendLine()
	})
}

// What a replacement could not keep is refused, unless its kind is allowed.
func TestLossesInClouds(t *testing.T) {
	inEachCloud(t, func(t *testing.T, c cloud) {
		p, err := openBucket(t.Context(), c.place)
		require.NoError(t, err)
		defer p.Close()
		soon, yes, mode := time.Now().Add(time.Hour), true, azure.ImmutabilityPolicyModeUnlocked
		type losing struct {
			kind string
			set  func(s *opened)
		}
		cases := []losing{{lossTime, func(s *opened) { s.gcs.CustomTime = s.gcs.CustomTime.Add(time.Millisecond) }}}
		if c.azure != nil { // Azurite has none of them
			cases = []losing{
				{s3storage.LossLock, func(s *opened) { s.azure.LegalHold = &yes }},
				{s3storage.LossLock, func(s *opened) { s.azure.ImmutabilityPolicyMode, s.azure.ImmutabilityPolicyExpiresOn = &mode, &soon }},
				{lossTime, func(s *opened) { s.azure.ExpiresOn = &soon }},
			}
		}
		for _, lost := range cases {
			p.objects.(bucket).setWriting(writing{jobs: 1})
			c.put(t, "a", []byte("before"), "")
			s, err := p.read(t.Context(), "a")
			require.NoError(t, err)
			lost.set(s.opened)
			losses, err := s.notKept(t.Context())
			require.NoError(t, err)
			require.Len(t, losses, 1)
			require.Equal(t, lost.kind, losses[0].Kind)
			require.ErrorIs(t, s.replace(t.Context(), strings.NewReader("after")), s3storage.ErrNotKept)
			got, _ := c.state(t, "a")
			require.Equal(t, "before", string(got))
			p.objects.(bucket).setWriting(writing{jobs: 1, allowed: allowedLosses{"acl", lost.kind}})
			require.NoError(t, s.replace(t.Context(), strings.NewReader("after")))
			got, _ = c.state(t, "a")
			require.Equal(t, "after", string(got))
			require.NoError(t, s.Close())
		}
	})
}
