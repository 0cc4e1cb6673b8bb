package command

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// clearLine moves a terminal's cursor to the beginning of its line, which it clears.
const clearLine = "\r\x1b[2K"

// line says on standard error how far work is. On a terminal that is one line, which appears after
// progressAfter, is drawn anew, and goes when it is closed. Elsewhere it is a line each
// lineEvery.
type line struct {
	text     func() string
	terminal bool
	ended    chan struct{}
	drawing  sync.WaitGroup

	mu    sync.Mutex
	drawn bool
}

func showLine(text func() string) *line {
	l := &line{text: text, terminal: isWatched(), ended: make(chan struct{})}
	wait, next := lineEvery, lineEvery
	if l.terminal {
		wait, next = progressAfter, drawEvery
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
		l.say(slog.LevelInfo, l.text())
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drawn = true
	fmt.Fprint(os.Stderr, clearLine, "pikokms: ", l.text())
}

// say says something else, in a line of its own.
func (l *line) say(level slog.Level, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clear()
	say(level, text)
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
