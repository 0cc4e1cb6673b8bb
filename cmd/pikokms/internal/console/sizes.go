package console

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

func Count(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// SizeText returns a size for people: from 1 MiB on in binary units.
func SizeText(n int64) string {
	if n < 1<<20 {
		return Count(n, "byte")
	}
	return Readable(n)
}

// Readable returns a size in binary units.
func Readable(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	size, unit := float64(n)/(1<<10), 0
	for size >= 1<<10 && unit < 4 {
		size, unit = size/(1<<10), unit+1
	}
	return fmt.Sprintf("%.1f %ciB", size, "KMGTP"[unit])
}

// ParseSize parses a size in bytes, or one with a binary unit: 512MiB, 2GiB.
func ParseSize(text string) (int64, error) {
	number, shift := text, 0
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if digits, ok := strings.CutSuffix(text, unit); ok {
			number, shift = digits, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is no size; give one such as 512MiB or 2GiB", text)
	}
	return n << shift, nil
}
