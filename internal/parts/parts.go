// Package parts says how large the parts must be in which an object of a bucket is uploaded.
package parts

// most is how many parts of an object are used: S3 takes 10,000 (Amazon S3 User Guide, "Amazon S3
// multipart upload limits"), of which some are left for what encryption adds. usual is the size in
// bytes that gocloud.dev chooses.
const (
	most  = 9_900
	usual = 5 << 20
)

// BufferSize returns the blob.WriterOptions.BufferSize that an object of about n bytes needs: the
// size of a part in bytes, or 0 if what gocloud.dev chooses will do.
func BufferSize(n int64) int {
	if part := n / most; part > usual {
		return int(part)
	}
	return 0
}
