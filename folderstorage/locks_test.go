package folderstorage_test

import "runtime"

// hasLocks tells whether a lock tells a living writer from a killed one.
var hasLocks = runtime.GOOS == "linux" || runtime.GOOS == "darwin" || runtime.GOOS == "freebsd"
