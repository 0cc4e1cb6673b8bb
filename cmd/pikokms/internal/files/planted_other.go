//go:build !unix

package files

const NoFollow = 0

// ResolveOutput returns the path as it is: there are no folders with a sticky bit.
func ResolveOutput(path string, _ bool) (string, error) { return path, nil }
