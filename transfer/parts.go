package transfer

import "math"

// maxParts is the number of parts that the plaintext of an object may take. S3 allows 10,000
// (Amazon S3 User Guide, "Amazon S3 multipart upload limits"), some of which are left for what
// encryption adds. usualPart is gocloud.dev's part size in bytes, which is the default of the AWS
// SDK's transfer manager.
const (
	maxParts  = 9_900
	usualPart = 8 << 20
)

// PartSize returns the size in bytes of the parts in which to upload an object of about n bytes,
// such as the BufferSize of gocloud.dev's blob.WriterOptions. It is 0 if parts of 8 MiB will do.
func PartSize(n int64) int {
	if part := n / maxParts; part > usualPart {
		return int(min(part, math.MaxInt)) // an int has 31 bits on some systems
	}
	return 0
}
