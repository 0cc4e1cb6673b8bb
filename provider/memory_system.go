//go:build !wasm

package provider

import "github.com/awnumar/memcall"

// allocate returns memory from the operating system.
func allocate(n int) ([]byte, error) { return memcall.Alloc(n) }

// lock locks memory against swapping, and keeps it out of core dumps, if the system can.
func lock(memory []byte) error { return memcall.Lock(memory) }

func unlock(memory []byte) error  { return memcall.Unlock(memory) }
func release(memory []byte) error { return memcall.Free(memory) }

// unlockedWarning says what follows when memory can't be locked, and what to do.
const unlockedWarning = "pikokms: the memory of keys can't be locked, so the system may swap keys to a disk; raise the limit of locked memory (ulimit -l, LimitMEMLOCK=)"
