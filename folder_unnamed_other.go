//go:build !linux

package pikokms

// create makes a file with a temporary name in dir. Only its owner can read it.
func (f *Folder) create(dir string) (*unplaced, error) { return f.createNamed(dir) }

// name gives a file its name. What stands there is replaced only if so wanted.
func (u *unplaced) name(name string, replace bool) error { return u.rename(name, replace) }
