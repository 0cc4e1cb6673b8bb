package command

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// counter counts the bytes that are read through it.
type counter struct {
	r    io.Reader
	n    atomic.Int64
	tell func(n int) // is called with each number of bytes, if it is not nil
}

// Read implements io.Reader.
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	if c.tell != nil {
		c.tell(n)
	}
	return n, err
}

// newBar returns a progress bar on standard error. The total is in bytes, and less than 1 if it is
// unknown.
func newBar(what string, total int64) *progressbar.ProgressBar {
	if total < 1 {
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
	return bar
}

// isWatched tells whether standard error is a terminal on which progress may be drawn, for it has
// no lines of JSON.
func isWatched() bool { return isTextLog() && term.IsTerminal(int(os.Stderr.Fd())) }

// showProgress draws a progress bar on standard error if that is a terminal and the work lasts more
// than half a second. The total is in bytes, or -1 if it is unknown. The bar goes when done is
// called.
func showProgress(what string, work *counter, total int64) (done func()) {
	bar := newBar(what, total)
	l := showLine(nil, func() { _ = bar.Set64(work.n.Load()) }, func() { _ = bar.Clear() })
	return l.close
}

// monitor says on standard error how work on several objects comes on: by a bar on a terminal, and
// by a line now and then elsewhere.
type monitor struct {
	word string
	plan *plan
	from time.Time
	read atomic.Int64 // bytes of what is done and what is being worked on, in this run
	left int64        // bytes that there were to do when this run began

	mu    sync.Mutex
	total summary

	shown *line
}

func newMonitor(word string, p *plan) *monitor {
	return &monitor{word: word, plan: p, from: time.Now(), left: p.bytes}
}

// addBefore counts what an earlier run did.
func (m *monitor) addBefore(o outcome, i item) {
	m.total.add(o)
	m.total.before++
	m.left -= max(i.size, 0)
}

// start says what there is to do, and shows from now on how it comes on, until shown is closed.
func (m *monitor) start() {
	if m.plan.objects > 1 {
		say(slog.LevelInfo, fmt.Sprintf("found %s of %s", count(m.plan.objects, "object"), count(m.plan.bytes, "byte")))
	}
	bar := newBar(m.word, m.left)
	m.shown = showLine(m.text, func() {
		sum := m.sum()
		bar.Describe(fmt.Sprintf("%s %d of %d", m.word, sum.objects(), m.plan.total()))
		// A bar that reaches its end is over, and an object may have grown since it was listed.
		_ = bar.Set64(min(m.read.Load(), max(m.left-1, 0)))
	}, func() { _ = bar.Clear() })
}

// text says how far the work is.
func (m *monitor) text() string {
	sum, elapsed, read := m.sum(), time.Since(m.from), m.read.Load()
	text := fmt.Sprintf("%s, of %d; %.1f MB/s", sum.text(m.word), m.plan.total(), float64(read)/1e6/elapsed.Seconds())
	if read > 0 && read < m.left {
		text += fmt.Sprintf(", %v left", (time.Duration(float64(elapsed) * float64(m.left-read) / float64(read))).Round(time.Second))
	}
	return text
}

// begin has the bytes of an object counted as they are read. The caller calls end when the work on
// it is over. The first bytes, which are read before a key service is asked, are counted only then:
// most of the work on a small object comes after it was read.
func (m *monitor) begin(i *item) (end func()) {
	var read, counted atomic.Int64
	i.tell = func(n int) {
		if ahead := read.Add(int64(n)) - peeked - counted.Load(); ahead > 0 {
			counted.Add(ahead)
			m.read.Add(ahead)
		}
	}
	return func() { m.read.Add(max(i.size, 0) - counted.Load()) }
}

// add counts an outcome, and says what there is to be said of it.
func (m *monitor) add(o outcome) {
	m.mu.Lock()
	m.total.add(o)
	m.mu.Unlock()
	if o.Reason != "" {
		level := slog.LevelError
		if o.Result == "skipped" {
			level = slog.LevelInfo
		}
		m.shown.say(level, fmt.Sprintf("%s %s: %s", o.Result, printable(o.Name), o.Reason), "object", o.Name, "result", o.Result, "reason", o.Reason)
	}
}

func (m *monitor) sum() summary {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total
}

func (m *monitor) took() string {
	return fmt.Sprintf(", in %v", time.Since(m.from).Round(time.Millisecond))
}
