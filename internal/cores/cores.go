// Package cores shares the processor's cores among all streams of the process. Encryption and
// compression take their goroutines from one budget. So a stream that does both has no more
// goroutines at work than a stream that does one of them, and neither have many streams at once.
//
// A stream takes goroutines for one piece of work, such as a few frames, and gives them back
// afterwards. So a stream that waits for its source or its destination holds none. The exception is
// an encoder of zstd, which keeps its second goroutine once it has one.
package cores

import (
	"runtime"
	"sync/atomic"
)

// MaxDefault is the most goroutines that work on one stream if its user sets no number. More than
// eight make no stream faster, since memory is then the limit.
const MaxDefault = 8

// taken counts the goroutines that streams have taken, beside those of their callers.
var taken atomic.Int64

// Most returns the most goroutines that may work on one stream of a given parallelism, with the
// caller's among them. A parallelism of 0 means one for each core, at most [MaxDefault]. A negative
// one means 1.
func Most(parallelism int) int {
	if parallelism == 0 {
		return min(MaxDefault, runtime.GOMAXPROCS(0))
	}
	return max(1, parallelism)
}

// Take returns how many goroutines, up to most, a stream may start beside the caller's. If
// parallelism is 0, all streams of the process share a budget of GOMAXPROCS goroutines, and Take
// returns what is left of it. Any other parallelism is the user's decision, and Take returns most.
// The caller must return the goroutines by [Give].
func Take(parallelism, most int) int {
	if most <= 0 {
		return 0
	}
	if parallelism != 0 {
		taken.Add(int64(most))
		return most
	}
	for {
		inUse := taken.Load()
		n := min(int64(most), int64(runtime.GOMAXPROCS(0))-inUse)
		if n <= 0 {
			return 0
		}
		if taken.CompareAndSwap(inUse, inUse+n) {
			return int(n)
		}
	}
}

// Free returns how many goroutines [Take] would now grant at most to a parallelism of 0.
func Free() int { return max(0, runtime.GOMAXPROCS(0)-int(taken.Load())) }

// Give gives back n goroutines that [Take] returned.
func Give(n int) { taken.Add(-int64(n)) }
