//go:build unix

package outfile_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"piko.sh/pikokms/outfile"
)

// A file is replaced by one with other content.
func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "report")
	written := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	if err := os.WriteFile(path, []byte("old"), 0o640); err != nil {
		log.Fatal(err)
	}
	if err := os.Chtimes(path, written, written); err != nil {
		log.Fatal(err)
	}
	old, err := os.Stat(path)
	if err != nil {
		log.Fatal(err)
	}

	file, err := os.CreateTemp(dir, "")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := strings.NewReader("new").WriteTo(outfile.NewWriter(file)); err != nil {
		log.Fatal(err)
	}
	if err := outfile.KeepOwner(file, old); err != nil {
		log.Fatal(err)
	}
	if err := outfile.KeepModTime(file, old); err != nil {
		log.Fatal(err)
	}
	if err := file.Close(); err != nil {
		log.Fatal(err)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		log.Fatal(err)
	}
	now, err := os.Stat(path)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(now.Mode(), now.ModTime().UTC())
	// Output: -rw-r----- 2026-01-31 12:00:00 +0000 UTC
}
