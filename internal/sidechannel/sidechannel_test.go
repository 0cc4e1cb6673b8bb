package main

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/race"
)

// TestWelch has figures that can be worked out by hand.
func TestWelch(t *testing.T) {
	// Means 2 and 4, variances 1 and 4, three of each: t = -2 / √(1/3 + 4/3).
	require.InDelta(t, -2/math.Sqrt(5.0/3), welch([]float64{1, 2, 3}, []float64{2, 4, 6}, math.Inf(1)), 1e-12)
	require.InDelta(t, 0, welch([]float64{1, 2, 3}, []float64{2, 4, 6}, 1), 0, "one is no sample")
	require.Greater(t, math.Abs(welch([]float64{1, 2, 1, 2, 1, 2}, []float64{11, 12, 11, 12, 11, 12}, math.Inf(1))), 10.0)
}

// TestEveryComparison runs each operation a few times: all fail, with the same sentinel, or they
// panic.
func TestEveryComparison(t *testing.T) {
	race.SkipShort(t)
	var out strings.Builder
	require.NoError(t, run(5, &out))
	require.Equal(t, 13, strings.Count(out.String(), "\n"), out.String())
}
