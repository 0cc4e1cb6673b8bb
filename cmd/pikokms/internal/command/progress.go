package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// counter counts the bytes that are read through it.
type counter struct {
	r io.Reader
	n atomic.Int64
}

// Read implements io.Reader.
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// showProgress draws a progress bar on standard error if that is a terminal and the work lasts more
// than half a second. The total is in bytes, or -1 if it is unknown. The bar goes when ctx ends or
// done is called.
func showProgress(ctx context.Context, what string, work *counter, total int64) (done func()) {
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var drawing sync.WaitGroup
	drawing.Go(func() {
		if total == 0 {
			total = -1
		}
		bar := progressbar.NewOptions64(total,
			progressbar.OptionSetDescription(what),
			progressbar.OptionSetWriter(os.Stderr),
			progressbar.OptionShowBytes(true),
			progressbar.OptionShowCount(),
			progressbar.OptionUseIECUnits(true),
			progressbar.OptionUseANSICodes(true),
			progressbar.OptionClearOnFinish(),
			progressbar.OptionSetSpinnerChangeInterval(0), // It then starts no goroutine.
		)
		bar.StartWithoutRender() // The rate counts from here.
		select {
		case <-ctx.Done():
			return
		case <-time.After(500 * time.Millisecond):
		}
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			_ = bar.Set64(work.n.Load())
			select {
			case <-ctx.Done():
				_ = bar.Clear()
				return
			case <-tick.C:
			}
		}
	})
	return func() {
		cancel()
		drawing.Wait()
	}
}

// clearLine moves a terminal's cursor to the beginning of its line, which it clears.
const clearLine = "\r\x1b[2K"

// line says on standard error how far work is. On a terminal that is one line, which appears after
// half a second, is drawn anew, and goes when it is closed. Elsewhere it is a line each
// progressInterval.
type line struct {
	text     func() string
	terminal bool
	ended    chan struct{}
	drawing  sync.WaitGroup

	mu    sync.Mutex
	drawn bool
}

func showLine(text func() string) *line {
	l := &line{text: text, terminal: term.IsTerminal(int(os.Stderr.Fd())), ended: make(chan struct{})}
	wait, next := progressInterval, progressInterval
	if l.terminal {
		wait, next = 500*time.Millisecond, 100*time.Millisecond
	}
	l.drawing.Go(func() {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		for {
			select {
			case <-l.ended:
				return
			case <-timer.C:
				l.draw()
				timer.Reset(next)
			}
		}
	})
	return l
}

func (l *line) draw() {
	if !l.terminal {
		l.say(l.text())
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drawn = true
	fmt.Fprint(os.Stderr, clearLine, l.text())
}

// say says something else, in a line of its own.
func (l *line) say(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clear()
	fmt.Fprintln(os.Stderr, text)
}

func (l *line) clear() {
	if l.drawn {
		fmt.Fprint(os.Stderr, clearLine)
	}
	l.drawn = false
}

// close ends the line.
func (l *line) close() {
	close(l.ended)
	l.drawing.Wait()
	l.clear()
}
