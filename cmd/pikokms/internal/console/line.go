package console

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// The times of progress.
const (
	progressAfter = 500 * time.Millisecond // shorter work shows none on a terminal
	drawEvery     = 100 * time.Millisecond // on a terminal
	lineEvery     = 10 * time.Second       // elsewhere
)

// ClearLine moves a terminal's cursor to the beginning of its line, which it clears.
const ClearLine = "\r\x1b[2K"

// Line shows the progress of work on standard error. On a terminal it is drawn in the cursor's line
// from progressAfter on, and is wiped when it is closed or something else is written. Elsewhere its
// text is logged every lineEvery.
type Line struct {
	text       func() string // may be nil
	draw, wipe func()

	ended   chan struct{}
	Close   func() // ends the line
	drawing sync.WaitGroup

	mu    sync.Mutex
	drawn bool
}

// ShowLine starts to show a line, by draw and wipe on a terminal and as text elsewhere. The caller
// closes it.
func ShowLine(text func() string, draw, wipe func()) *Line {
	l := &Line{text: text, draw: draw, wipe: wipe, ended: make(chan struct{})}
	l.Close = sync.OnceFunc(func() {
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
		show, wait, next = func() { l.Say(slog.LevelInfo, l.text()) }, lineEvery, lineEvery
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

// ShowText shows a line whose text is the same on a terminal and elsewhere.
func ShowText(text func() string) *Line {
	return ShowLine(text, func() { fmt.Fprint(os.Stderr, ClearLine, "pikokms: ", text()) }, func() { fmt.Fprint(os.Stderr, ClearLine) })
}

func (l *Line) redraw() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drawn = true
	l.draw()
}

// Say writes something else, in a line of its own.
func (l *Line) Say(level slog.Level, text string, attributes ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clear()
	Say(level, text, attributes...)
}

// clear wipes what is drawn. The caller holds the lock.
func (l *Line) clear() {
	if l.drawn {
		l.wipe()
	}
	l.drawn = false
}
