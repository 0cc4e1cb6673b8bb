// Package cores shares the processor's cores among all streams of the process. Encryption and
// compression take their goroutines from one budget, so that a stream which does both has no more
// goroutines at work than one which does either, and many streams at once no more than one.
//
// A stream takes goroutines for one piece of work, such as a few frames, and gives them back when
// that is done. So a stream that waits for its source or its destination holds none. The exception
// is an encoder of zstd, which can't be without its second goroutine once it has one.
package cores

import (
	"runtime"
	"sync/atomic"
)

// MaxDefault is the most goroutines that one stream has at work where its user states no number.
// More make no stream faster: memory is as fast as eight cores by then.
const MaxDefault = 8

// taken counts the goroutines at work beside those that called a stream.
var taken atomic.Int64

// Most returns the most goroutines that a stream of a given parallelism has at work, the caller's
// own included. A parallelism of 0 means one for each core, and at most [MaxDefault]; a negative
// one means 1.
func Most(parallelism int) int {
	if parallelism == 0 {
		return min(MaxDefault, runtime.GOMAXPROCS(0))
	}
	return max(1, parallelism)
}

// Take returns how many goroutines, up to most, a stream may start beside the caller's. Where the
// parallelism is 0, it is as many as are left of one for each core: GOMAXPROCS for all streams of
// the process together. A stated parallelism is the user's decision, and gets them all. Each must
// be given back by [Give].
func Take(parallelism, most int) int {
	if most <= 0 {
		return 0
	}
	if parallelism != 0 {
		taken.Add(int64(most))
		return most
	}
	for {
		before := taken.Load()
		n := min(int64(most), int64(runtime.GOMAXPROCS(0))-before)
		if n <= 0 {
			return 0
		}
		if taken.CompareAndSwap(before, before+n) {
			return int(n)
		}
	}
}

// Free returns how many goroutines [Take] would grant to a parallelism of 0 now.
func Free() int { return max(0, runtime.GOMAXPROCS(0)-int(taken.Load())) }

// Give gives back n goroutines that [Take] returned.
func Give(n int) { taken.Add(-int64(n)) }
