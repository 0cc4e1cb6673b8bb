//go:build !linux

package files

import (
	"os"
)

// createUnnamed makes a file with a temporary name in dir. Only its owner can read it.
func createUnnamed(dir string) (*os.File, error) { return CreateTemporary(dir) }

// nameUnnamed returns the temporary name of a file of createUnnamed.
func nameUnnamed(f *os.File) (string, error) { return f.Name(), nil }

// removeUnnamed removes a closed file of createUnnamed.
func removeUnnamed(name string) { _ = os.Remove(name) }
