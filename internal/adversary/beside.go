package adversary

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"piko.sh/pikokms"
)

// RewrapBeside puts and deletes objects through application while rewrapper, which stands for
// another process, rewraps them without pause. Each key has only one writer, which knows after each
// of its calls what must be stored.
func RewrapBeside(t *testing.T, application, rewrapper *pikokms.Host, writers, operations int) {
	t.Helper()
	key := func(i int) string { return fmt.Sprintf("folder-%d/object", i) }
	done := make(chan struct{})
	var rewrapped, changed atomic.Int64
	var rewrapping sync.WaitGroup
	for range 4 {
		rewrapping.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				err := rewrapper.Rewrap(t.Context(), key(rand.IntN(writers)))
				switch {
				case err == nil:
					rewrapped.Add(1)
				case errors.Is(err, pikokms.ErrChanged):
					changed.Add(1)
				case !errors.Is(err, fs.ErrNotExist):
					t.Errorf("rewrap: %v", err)
				}
			}
		})
	}
	var writing sync.WaitGroup
	for i := range writers {
		writing.Go(func() {
			for n := range operations {
				writeAndLook(t, application, key(i), fmt.Sprintf("%d of %d", n, i), n%3 == 2)
			}
		})
	}
	writing.Wait()
	close(done)
	rewrapping.Wait()
	t.Logf("%d puts and deletes beside %d rewrappings and %d that found the object changed", writers*operations, rewrapped.Load(), changed.Load())
	if rewrapped.Load() == 0 {
		t.Error("nothing was rewrapped")
	}
}

// writeAndLook puts or deletes an object, and checks that no rewrapping undoes that.
func writeAndLook(t *testing.T, application *pikokms.Host, key, content string, deletes bool) {
	if deletes {
		if err := application.Delete(t.Context(), key); err != nil {
			t.Errorf("delete: %v", err)
		}
	} else if err := application.Put(t.Context(), key, strings.NewReader(content)); err != nil {
		t.Errorf("put: %v", err)
	}
	for range 2 { // a rewrapping that had begun may end now
		r, err := application.Get(t.Context(), key)
		switch {
		case deletes && !errors.Is(err, fs.ErrNotExist):
			t.Errorf("a deleted object came back: %v", err)
		case !deletes && err != nil:
			t.Errorf("an object that was put is lost: %v", err)
		}
		if err != nil {
			continue
		}
		got, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil || string(got) != content {
			t.Errorf("%q is there, %q was put: %v", got, content, err)
		}
	}
}
