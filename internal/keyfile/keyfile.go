// Package keyfile reads key files. It refuses files that other users have access to.
package keyfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
	"unicode"

	"piko.sh/pikokms/provider"
)

// maxSize bounds a file in bytes. The largest keys take a fifth of it.
const maxSize = 16 << 10

// Read returns the content of a key file, which the caller clears, and the time of its last change.
// It refuses a file that another user can write, since that user could put another key there. If
// isSecret reports that the content is secret, it also refuses a file that another user can read.
// The exception is a file of mode 0440 whose group this process is in: so Kubernetes mounts secrets
// for a pod with an fsGroup. If the path is a symbolic link, Read checks the file that it leads to.
// On Windows, it does not check access. It converts UTF-16 to UTF-8 and drops a byte order mark.
//
// The error holds provider.ErrInvalidKey, or fs.ErrNotExist or another error of the system.
func Read(path string, isSecret func(text []byte) bool) (text []byte, changed time.Time, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, changed, fmt.Errorf("no key file %s: %w", path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, changed, fmt.Errorf("opening the key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, changed, fmt.Errorf("key file %s: %w", path, err)
	}
	buf := make([]byte, maxSize+1)
	n, err := io.ReadFull(f, buf)
	if err == nil {
		clear(buf)
		return nil, changed, fmt.Errorf("%w: key file %s is over %d bytes, it should be one line of base64 or PEM text", provider.ErrInvalidKey, path, maxSize)
	}
	if err != io.EOF && err != io.ErrUnexpectedEOF {
		clear(buf)
		return nil, changed, fmt.Errorf("reading key file %s: %w", path, err)
	}
	if text, err = decode(buf[:n]); err != nil {
		clear(buf)
		return nil, changed, fmt.Errorf("%w: key file %s: %w", provider.ErrInvalidKey, path, err)
	}
	if err := checkAccess(path, info, isSecret(text)); err != nil {
		clear(buf)
		return nil, changed, err
	}
	return text, info.ModTime(), nil
}

// decode returns text without a byte order mark, and text of UTF-16, which editors and shells of
// Windows write, in UTF-8. It changes the text in place.
func decode(text []byte) ([]byte, error) {
	high := 1 // the index of the high byte in a code unit
	switch {
	case bytes.HasPrefix(text, []byte("\xef\xbb\xbf")):
		return text[3:], nil
	case bytes.HasPrefix(text, []byte("\xfe\xff")):
		high = 0
	case !bytes.HasPrefix(text, []byte("\xff\xfe")):
		return text, nil
	}
	n := 0
	for unit := range slices.Chunk(text[2:], 2) {
		if len(unit) < 2 || unit[high] != 0 || unit[1-high] > unicode.MaxASCII {
			return nil, errors.New("it is UTF-16 and has other characters than those of base64 and PEM; save it as UTF-8")
		}
		text[n] = unit[1-high]
		n++
	}
	clear(text[n:])
	return text[:n], nil
}
