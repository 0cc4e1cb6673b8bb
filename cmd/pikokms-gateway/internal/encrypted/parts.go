package encrypted

import (
	"strconv"
	"strings"

	"github.com/versity/versitygw/s3response"
)

type attributes = s3response.GetObjectAttributesResponse

// maxPartsText bounds the metadata of an object's parts. S3 takes 2 KB of metadata in all.
const maxPartsText = 512

// formatParts returns the sizes of an object's parts as metadata, such as "8388608*124,1234", where
// 124 parts in a row have the same size. It is empty if the text would be too long.
func formatParts(sizes []int64) string {
	var all []string
	for i := 0; i < len(sizes); {
		run := i + 1
		for run < len(sizes) && sizes[run] == sizes[i] {
			run++
		}
		text := strconv.FormatInt(sizes[i], 10)
		if run-i > 1 {
			text += "*" + strconv.Itoa(run-i)
		}
		all, i = append(all, text), run
	}
	text := strings.Join(all, ",")
	if len(text) > maxPartsText {
		return ""
	}
	return text
}

// parseParts returns the sizes of the parts of an object of whole bytes, or nil if the text has
// none. Nothing authenticates them, so they must add up to the whole: a client that reads the parts
// by their numbers must not take some for all.
func parseParts(text string, whole int64) (sizes []int64, err error) {
	if text == "" || len(text) > maxPartsText {
		return nil, nil
	}
	for run := range strings.SplitSeq(text, ",") {
		number, times, repeated := strings.Cut(run, "*")
		size, err := strconv.ParseInt(number, 10, 64)
		if err != nil || size < 0 || size > whole {
			return nil, errInvalid
		}
		n := 1
		if repeated {
			if n, err = strconv.Atoi(times); err != nil || n < 1 {
				return nil, errInvalid
			}
		}
		if len(sizes)+n > maxParts {
			return nil, errInvalid
		}
		for range n {
			sizes = append(sizes, size)
			if whole -= size; whole < 0 {
				return nil, errInvalid
			}
		}
	}
	if whole != 0 {
		return nil, errInvalid
	}
	return sizes, nil
}

// maxParts is how many parts an object can have (Amazon S3 User Guide, "Amazon S3 multipart upload
// limits").
const maxParts = 10_000
