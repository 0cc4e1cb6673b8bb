package compress

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// A test can't compress 32 TiB, so other tests try that a transformer keeps smaller bounds.
func TestSeekableBoundIsWhatATableHolds(t *testing.T) {
	for given, want := range map[int64]int64{0: defaultMaxSize, 1000: 1000, 1 << 45: 1 << 45, 1<<45 + 1: 1 << 45, math.MaxInt64: 1 << 45} {
		s, err := New(ZstdSeekable, given)
		require.NoError(t, err)
		require.Equal(t, want, s.maxSize)
	}
	require.EqualValues(t, maxSeekFrames, maxSeekableSize/seekableBlock)
	require.LessOrEqual(t, int64(seekFooterSize+maxSeekFrames*(seekEntrySize+seekChecksumSize)), int64(math.MaxUint32), "the table's own size field")

	tail := binary.LittleEndian.AppendUint32(nil, maxSeekFrames+1)
	tail = append(tail, 0)
	tail = binary.LittleEndian.AppendUint32(tail, seekableMagic)
	_, err := parseSeekFooter(tail, math.MaxInt64)
	require.ErrorIs(t, err, ErrCorrupt)
}

func TestSeekableWriterDropsLargeTables(t *testing.T) {
	var out bytes.Buffer
	w, err := newSeekableWriter(&out, 1)
	require.NoError(t, err)
	s := w.(*seekableWriter)
	s.entries = make([]byte, tableKept+1)
	s.Reset(&out)
	require.Nil(t, s.entries)
	s.entries = make([]byte, tableKept)
	s.Reset(&out)
	require.NotNil(t, s.entries)
}
