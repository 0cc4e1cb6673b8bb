// Package parts says how large the parts must be in which an object of a bucket is uploaded.
package parts

import "math"

// most is how many parts of an object are used: S3 takes 10,000 (Amazon S3 User Guide, "Amazon S3
// multipart upload limits"), of which some are left for what encryption adds. usual is the
// size of a part in bytes that gocloud.dev has: that of the AWS SDK's transfer manager, which
// makes parts of what has 16 MiB or more.
const (
	most  = 9_900
	usual = 8 << 20
)

// BufferSize returns the blob.WriterOptions.BufferSize that an object of about n bytes needs: the
// size of a part in bytes, or 0 if the usual one will do.
func BufferSize(n int64) int {
	if part := n / most; part > usual {
		return int(min(part, math.MaxInt)) // an int has 31 bits on some systems
	}
	return 0
}
