//go:build !linux

package folderstorage

// create makes a file with a temporary name in dir. Only its owner can read it.
func (f *Storage) create(dir string) (*unplaced, error) { return f.createNamed(dir) }

// name gives a file its name. It replaces a file of that name only if replace is true.
func (u *unplaced) name(name string, replace bool) error { return u.rename(name, replace) }
