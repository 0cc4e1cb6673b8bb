package cores_test

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/cores"
)

func onCores(t *testing.T, n int) {
	before := runtime.GOMAXPROCS(n)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

func TestMost(t *testing.T) {
	onCores(t, 4)
	require.Equal(t, 4, cores.Most(0))
	require.Equal(t, 1, cores.Most(1))
	require.Equal(t, 1, cores.Most(-3))
	require.Equal(t, 20, cores.Most(20))
	runtime.GOMAXPROCS(cores.MaxDefault + 1)
	require.Equal(t, cores.MaxDefault, cores.Most(0))
}

func TestTakeSharesWhatThereIs(t *testing.T) {
	onCores(t, 8)
	require.Equal(t, 5, cores.Take(0, 5))
	require.Equal(t, 3, cores.Take(0, 5))
	require.Equal(t, 0, cores.Take(0, 5))
	require.Equal(t, 0, cores.Free())
	cores.Give(5)
	require.Equal(t, 5, cores.Free())
	require.Equal(t, 4, cores.Take(0, 4))
	require.Equal(t, 1, cores.Take(0, 4))
	cores.Give(8)
	require.Equal(t, 0, cores.Take(0, 0))
	require.Equal(t, 0, cores.Take(0, -1))
}

func TestStatedParallelismIsGranted(t *testing.T) {
	onCores(t, 2)
	require.Equal(t, 9, cores.Take(10, 9))
	require.Equal(t, 0, cores.Take(0, 1), "others see that the cores are taken")
	require.Equal(t, 0, cores.Free())
	cores.Give(9)
	require.Equal(t, 2, cores.Take(0, 3))
	cores.Give(2)
}

func TestManyStreamsTakeNoMoreThanThereIs(t *testing.T) {
	onCores(t, 6)
	var now, most atomic.Int64
	var streams sync.WaitGroup
	for range 50 {
		streams.Go(func() {
			for range 500 {
				n := cores.Take(0, 3)
				sum := now.Add(int64(n))
				for m := most.Load(); sum > m && !most.CompareAndSwap(m, sum); m = most.Load() {
				}
				runtime.Gosched()
				now.Add(-int64(n))
				cores.Give(n)
			}
		})
	}
	streams.Wait()
	require.LessOrEqual(t, most.Load(), int64(6))
	require.Positive(t, most.Load())
	require.Equal(t, 6, cores.Take(0, 100), "all was given back")
	cores.Give(6)
}
