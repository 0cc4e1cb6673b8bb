package verbs

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// byteRange is a part of an object, as --range names it.
type byteRange struct {
	from, to int64 // the first byte and the last, which is -1 for the object's
	last     int64 // if it is not 0, the range is this many bytes at the end
}

var errRange = errors.New(`a range is FROM-TO, FROM- or -N, in bytes from 0, with TO in it`)

func parseRange(text string) (r byteRange, err error) {
	from, to, ok := strings.Cut(text, "-")
	switch {
	case !ok || from == "" && to == "":
		return r, errRange
	case from == "":
		r.last, err = parseBytes(to)
		if err == nil && r.last == 0 {
			err = errRange
		}
		return r, err
	}
	if r.from, err = parseBytes(from); err != nil {
		return r, err
	}
	r.to = -1
	if to != "" {
		if r.to, err = parseBytes(to); err != nil {
			return r, err
		}
		if r.to < r.from {
			return r, errRange
		}
	}
	return r, nil
}

// resolve returns where the range is in an object of size bytes, and how much of it the object has.
func (r byteRange) resolve(size int64) (offset, length int64, err error) {
	switch {
	case r.last > 0:
		n := min(r.last, size)
		return size - n, n, nil
	case r.from >= size && (r.from > 0 || r.to >= 0):
		return 0, 0, fmt.Errorf("--range begins at byte %d, and the plaintext has %d", r.from, size)
	case r.to < 0 || r.to >= size:
		return r.from, size - r.from, nil
	}
	return r.from, r.to - r.from + 1, nil
}

func parseBytes(text string) (int64, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, errRange
	}
	return int64(n), nil
}
