package console

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLayouts(t *testing.T) {
	for _, word := range []int{0, 7, 10} {
		for _, numbers := range []int{0, 6, 30} {
			for _, hasTotal := range []bool{true, false} {
				for columns := range 200 {
					l := layoutFor(columns, word, numbers, hasTotal)
					require.True(t, l.word || numbers > 0, "a bar says something")
					if columns >= 120 {
						require.Equal(t, layout{true, true, true}, l)
					}
				}
			}
		}
	}
}
