// Package keyfile reads key files. It refuses files that other users have access to.
package keyfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"piko.sh/pikokms/provider"
)

// maxSize bounds a file in bytes. The largest keys take a fifth of it.
const maxSize = 16 << 10

// Read returns the content of a key file, which the caller clears, and the time of its last change.
// It refuses a file that another user can write, since that user could put another key there. If
// isSecret says that the content is secret, it also refuses a file that another user can read. For
// a symbolic link, the file that it leads to counts. On Windows, access is not checked.
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
	if err := refuse(path, info, isSecret(buf[:n])); err != nil {
		clear(buf)
		return nil, changed, err
	}
	return buf[:n], info.ModTime(), nil
}
