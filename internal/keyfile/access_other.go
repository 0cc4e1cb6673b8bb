//go:build !unix

package keyfile

import "io/fs"

// refuse accepts every file: the system has no mode bits.
func refuse(string, fs.FileInfo, bool) error { return nil }
