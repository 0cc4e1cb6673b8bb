package places

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	azure "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/cloudtest"
	"piko.sh/pikokms/s3storage"
)

// TestCloudsRefuse checks that an object of GCS or Azure is not overwritten if it was changed
// meanwhile or is there already, and that one whose content fails is not stored.
func TestCloudsRefuse(t *testing.T) {
	cloudtest.InEach(t, func(t *testing.T, c cloudtest.Cloud) {
		p, err := Opener{}.OpenBucket(t.Context(), c.Place)
		require.NoError(t, err)
		defer p.Close()
		c.Put(t, "a", []byte("before"), "")
		s, err := p.Read(t.Context(), "a")
		require.NoError(t, err)
		defer s.Close()
		opened, err := p.objects.open(t.Context(), "a")
		require.NoError(t, err)
		c.Put(t, "a", []byte("meanwhile"), "")
		require.ErrorIs(t, s.Replace(t.Context(), strings.NewReader("ours")), pikokms.ErrChanged)
		require.ErrorIs(t, p.objects.(bucketStore).put(t.Context(), "a", s.opened, strings.NewReader("ours"), false), fs.ErrExist)
		got, _ := c.State(t, "a")
		require.Equal(t, "meanwhile", string(got))
		first := make([]byte, 6)
		_, err = opened.ReadAt(first, 0)
		require.NoError(t, err)
		require.Equal(t, "before", string(first), "what was fetched already")
		for _, size := range []int{9, 20 << 20} {
			failing := iotest.TimeoutReader(bytes.NewReader(make([]byte, size)))
			require.ErrorIs(t, p.objects.(bucketStore).put(t.Context(), "b", s.opened, failing, false), iotest.ErrTimeout)
			cut := io.MultiReader(bytes.NewReader(make([]byte, size)), iotest.ErrReader(io.ErrUnexpectedEOF))
			require.ErrorIs(t, p.objects.(bucketStore).put(t.Context(), "b", s.opened, cut, false), io.ErrUnexpectedEOF)
			_, err = p.objects.stat(context.WithoutCancel(t.Context()), "b")
			require.ErrorIs(t, err, fs.ErrNotExist)
		}
		require.NotContains(t, err.Error(), "\n")
		_, err = p.objects.read(t.Context(), "b")
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.NotContains(t, err.Error(), "\n")
		require.NoError(t, p.objects.(bucketStore).put(t.Context(), "b", s.opened, strings.NewReader("ours"), true))
	})
}

// TestCloudsReplacedWhileOpen reads ranges of an object that is replaced meanwhile. They are those
// of the old object, or an error.
func TestCloudsReplacedWhileOpen(t *testing.T) {
	cloudtest.InEach(t, func(t *testing.T, c cloudtest.Cloud) {
		p, err := Opener{}.OpenBucket(t.Context(), c.Place)
		require.NoError(t, err)
		defer p.Close()
		c.Put(t, "a", bytes.Repeat([]byte("before"), 10_000), "")
		opened, err := p.objects.open(t.Context(), "a")
		require.NoError(t, err)
		require.EqualValues(t, 60_000, opened.Size())
		c.Put(t, "a", bytes.Repeat([]byte("behind"), 10_000), "")
		_, err = opened.ReadAt(make([]byte, 6), 30_000)
		require.ErrorIs(t, err, pikokms.ErrChanged)
		require.NoError(t, opened.Close())
		c.Put(t, "empty", nil, "")
		opened, err = p.objects.open(t.Context(), "empty")
		require.NoError(t, err)
		require.Zero(t, opened.Size())
	})
}

// TestLossesInClouds checks that an object is not replaced if something can't be kept, unless that
// kind of loss is allowed.
func TestLossesInClouds(t *testing.T) {
	cloudtest.InEach(t, func(t *testing.T, c cloudtest.Cloud) {
		p, err := Opener{}.OpenBucket(t.Context(), c.Place)
		require.NoError(t, err)
		defer p.Close()
		soon, yes, mode := time.Now().Add(time.Hour), true, azure.ImmutabilityPolicyModeUnlocked
		type losing struct {
			kind string
			set  func(s *opened)
		}
		cases := []losing{{LossTime, func(s *opened) { s.gcs.CustomTime = s.gcs.CustomTime.Add(time.Millisecond) }}}
		if c.Azure != nil { // Azurite has none of them
			cases = []losing{
				{s3storage.LossLock, func(s *opened) { s.azure.LegalHold = &yes }},
				{s3storage.LossLock, func(s *opened) { s.azure.ImmutabilityPolicyMode, s.azure.ImmutabilityPolicyExpiresOn = &mode, &soon }},
				{LossTime, func(s *opened) { s.azure.ExpiresOn = &soon }},
			}
		}
		for _, lost := range cases {
			p.objects.(bucketStore).setWriting(Writing{Jobs: 1})
			c.Put(t, "a", []byte("before"), "")
			s, err := p.Read(t.Context(), "a")
			require.NoError(t, err)
			lost.set(s.opened)
			losses, err := s.NotKept(t.Context())
			require.NoError(t, err)
			require.Len(t, losses, 1)
			require.Equal(t, lost.kind, losses[0].Kind)
			require.ErrorIs(t, s.Replace(t.Context(), strings.NewReader("after")), s3storage.ErrNotKept)
			got, _ := c.State(t, "a")
			require.Equal(t, "before", string(got))
			p.objects.(bucketStore).setWriting(Writing{Jobs: 1, Allowed: allowedLosses{"acl", lost.kind}})
			require.NoError(t, s.Replace(t.Context(), strings.NewReader("after")))
			got, _ = c.State(t, "a")
			require.Equal(t, "after", string(got))
			require.NoError(t, s.Close())
		}
	})
}
