package encrypted

import (
	"strconv"
	"strings"

	"github.com/versity/versitygw/s3response"
)

type attributes = s3response.GetObjectAttributesResponse

// maxPartsText bounds the metadata of an object's parts. S3 takes 2 KB of metadata in all.
const maxPartsText = 512

// parseParts returns the sizes of an object's parts. They are nil if the object has none.
func parseParts(text string) (sizes []int64, err error) {
	if text == "" || len(text) > maxPartsText {
		return nil, nil
	}
	for one := range strings.SplitSeq(text, ",") {
		number, times, repeated := strings.Cut(one, "*")
		size, err := strconv.ParseInt(number, 10, 64)
		if err != nil || size < 0 {
			return nil, invalid
		}
		n := 1
		if repeated {
			if n, err = strconv.Atoi(times); err != nil || n < 1 {
				return nil, invalid
			}
		}
		if len(sizes)+n > maxParts {
			return nil, invalid
		}
		for range n {
			sizes = append(sizes, size)
		}
	}
	return sizes, nil
}

// maxParts is how many parts an object can have (Amazon S3 User Guide, "Amazon S3 multipart upload
// limits").
const maxParts = 10_000
