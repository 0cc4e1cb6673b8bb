package console

import (
	"fmt"
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
