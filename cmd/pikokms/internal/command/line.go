package command

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// The times of progress.
const (
	progressAfter = 500 * time.Millisecond // work that ends before has none on a terminal
	drawEvery     = 100 * time.Millisecond // on a terminal
	lineEvery     = 10 * time.Second       // elsewhere
)

// clearLine moves a terminal's cursor to the beginning of its line, which it clears.
const clearLine = "\r\x1b[2K"

// line shows on standard error how far work is. On a terminal it is drawn where the cursor is, from
// progressAfter on, and is wiped when it is closed or something else is said. Elsewhere its text is
// said each lineEvery.
type line struct {
	text       func() string // may be nil
	draw, wipe func()

	ended   chan struct{}
	close   func() // ends the line
	drawing sync.WaitGroup

	mu    sync.Mutex
	drawn bool
}

func showLine(text func() string, draw, wipe func()) *line {
	l := &line{text: text, draw: draw, wipe: wipe, ended: make(chan struct{})}
	l.close = sync.OnceFunc(func() {
		close(l.ended)
		l.drawing.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.clear()
	})
	show, wait, next := l.redraw, progressAfter, drawEvery
	if !isWatched() {
		if text == nil {
			return l
		}
		show, wait, next = func() { l.say(slog.LevelInfo, l.text()) }, lineEvery, lineEvery
	}
	l.drawing.Go(func() {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		for {
			select {
			case <-l.ended:
				return
			case <-timer.C:
				show()
				timer.Reset(next)
			}
		}
	})
	return l
}

// showText shows a line that is text on a terminal, too.
func showText(text func() string) *line {
	return showLine(text, func() { fmt.Fprint(os.Stderr, clearLine, "pikokms: ", text()) }, func() { fmt.Fprint(os.Stderr, clearLine) })
}

func (l *line) redraw() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drawn = true
	l.draw()
}

// say says something else, in a line of its own.
func (l *line) say(level slog.Level, text string, attributes ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clear()
	say(level, text, attributes...)
}

// clear wipes what is drawn. The caller holds the lock.
func (l *line) clear() {
	if l.drawn {
		l.wipe()
	}
	l.drawn = false
}
