package verbs

import (
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
)

// TestRemovesWhatWasOpened checks that Remove leaves an instruction file that the client has put
// anew since it was opened.
func TestRemovesWhatWasOpened(t *testing.T) {
	b := newMotoBucket(t)
	p, err := places.Opener{}.Open(t.Context(), b.url("in/"))
	require.NoError(t, err)
	defer p.Close()
	b.put("in/x.instruction", "one")
	s, err := p.Read(t.Context(), "x.instruction")
	require.NoError(t, err)
	defer s.Close()
	b.put("in/x.instruction", "two")
	require.ErrorIs(t, s.Remove(t.Context()), pikokms.ErrChanged)
	now, err := p.Read(t.Context(), "x.instruction")
	require.NoError(t, err)
	defer now.Close()
	require.NoError(t, now.Remove(t.Context()))
	_, err = p.Read(t.Context(), "x.instruction")
	require.Error(t, err)
}
