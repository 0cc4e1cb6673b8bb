package provider

import "errors"

// WebAssembly has one memory, which its host owns: none of it can be locked or kept apart from Go's
// heap.

func allocate(n int) ([]byte, error) { return make([]byte, n), nil }
func lock([]byte) error              { return errors.ErrUnsupported }
func unlock([]byte) error            { return nil }
func release([]byte) error           { return nil }

const unlockedWarning = "pikokms: keys are in the heap of WebAssembly, which can't be locked; its host can read them, and may swap them to a disk"
