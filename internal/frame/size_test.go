package frame_test

import (
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"piko.sh/pikokms/internal/frame"
)

func TestSizesOfRealBodies(t *testing.T) {
	for _, length := range []int{1, 2, 31, 32, 33, 64, 300} {
		c := config(length)
		for n := range 4*length + 2 {
			size, err := frame.EncryptedSize(int64(n), length)
			require.NoError(t, err)
			require.EqualValues(t, len(body(c, pattern(n))), size, "%d bytes in frames of %d", n, length)
			back, err := frame.PlaintextSize(size, length)
			require.NoError(t, err)
			require.EqualValues(t, n, back)
		}
	}
}

func TestSizesAreInverse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.IntRange(1, math.MaxInt).Draw(t, "frame length")
		n := rapid.Int64Range(0, math.MaxInt64).Draw(t, "n")
		size, err := frame.EncryptedSize(n, length)
		if err != nil {
			require.ErrorIs(t, err, frame.ErrTooLong)
			return
		}
		require.Greater(t, size, n)
		back, err := frame.PlaintextSize(size, length)
		require.NoError(t, err)
		require.Equal(t, n, back)
	})
}

// Every size that some layout has, one whose final frame is full included, tells its plaintext; no
// other has one.
func TestEachSizeHasOneLayout(t *testing.T) {
	for _, length := range []int{1, 2, 7, 32, 40, 100} {
		layouts := map[int64]int64{}
		most := int64(0)
		for regular := range int64(6) {
			for final := range int64(length) + 1 {
				size := regular*int64(length+frame.RegularOverhead) + final + frame.FinalOverhead
				require.NotContains(t, layouts, size)
				layouts[size] = regular*int64(length) + final
				most = max(most, size)
			}
		}
		for size := range most + 1 {
			got, err := frame.PlaintextSize(size, length)
			want, exists := layouts[size]
			if !exists {
				require.ErrorIs(t, err, frame.ErrMalformed, "%d bytes in frames of %d", size, length)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	}
}

func TestSizeLimits(t *testing.T) {
	const frames = math.MaxUint32
	type sizeTest struct {
		n      int64
		length int
		want   error
	}
	tests := []sizeTest{
		{frames - 1, 1, nil},
		{frames, 1, frame.ErrTooLong},
		{frames*65536 - 1, 65536, nil},
		{frames * 65536, 65536, frame.ErrTooLong},
		{math.MaxInt64, 1, frame.ErrTooLong},
		{math.MaxInt64, 65536, frame.ErrTooLong},
		{math.MaxInt64, math.MaxInt, frame.ErrTooLong},
		{math.MaxInt64 - 1, math.MaxInt, frame.ErrTooLong},
		{-1, 16, frame.ErrMalformed},
		{math.MinInt64, 16, frame.ErrMalformed},
		{16, 0, frame.ErrMalformed},
		{16, -1, frame.ErrMalformed},
	}
	if strconv.IntSize == 64 { // in fewer bits there is no frame length for so much
		long := uint32(math.MaxUint32)
		tests = append(tests, []sizeTest{
			{math.MaxInt64, int(long), frame.ErrTooLong},
			{math.MaxInt64 - frame.FinalOverhead, math.MaxInt, nil},
			{math.MaxInt64 - frame.FinalOverhead + 1, math.MaxInt, frame.ErrTooLong},
		}...)
	}
	for _, tt := range tests {
		size, err := frame.EncryptedSize(tt.n, tt.length)
		if tt.want != nil {
			require.ErrorIs(t, err, tt.want, "%d in frames of %d", tt.n, tt.length)
			continue
		}
		require.NoError(t, err, "%d in frames of %d", tt.n, tt.length)
		require.Greater(t, size, tt.n)
		back, err := frame.PlaintextSize(size, tt.length)
		require.NoError(t, err)
		require.Equal(t, tt.n, back)
	}

	for _, n := range []int64{math.MinInt64, -1, 0, frame.FinalOverhead - 1} {
		_, err := frame.PlaintextSize(n, 16)
		require.ErrorIs(t, err, frame.ErrMalformed)
	}
	for _, length := range []int{0, -1, math.MinInt} {
		_, err := frame.PlaintextSize(100, length)
		require.ErrorIs(t, err, frame.ErrMalformed)
	}
	// 2³² frames of one byte, one over the most.
	_, err := frame.PlaintextSize(frames*(1+frame.RegularOverhead)+frame.FinalOverhead, 1)
	require.ErrorIs(t, err, frame.ErrMalformed)
	_, err = frame.PlaintextSize(math.MaxInt64, 1)
	require.ErrorIs(t, err, frame.ErrMalformed)
}
