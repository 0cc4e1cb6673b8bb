package folderstorage_test

import "runtime"

// hasLocks reports whether locks show if a writer still runs or was killed.
var hasLocks = runtime.GOOS == "linux" || runtime.GOOS == "darwin" || runtime.GOOS == "freebsd"
