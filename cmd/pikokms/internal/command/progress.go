package command

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
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

// The columns that parts of a progress bar take at most, with the spaces around them.
const (
	percentColumns = 8  // the percentage and the ends of the bar
	countColumns   = 29 // as in (1.2 GiB/3.4 GiB, 123 MiB/s)
	timesColumns   = 18 // as in [12m34s:1h23m45s]
	leastColumns   = 4  // of the bar itself
	usualColumns   = 80 // of a terminal that does not tell its size
)

// layout is what a progress bar shows on a terminal.
type layout struct{ word, counts, times bool }

// layoutFor returns the most that fits into a terminal's columns. Word and numbers are the columns
// of the two parts of the description. Without a total there is no bar, and no time left.
func layoutFor(columns, word, numbers int, hasTotal bool) layout {
	counts, times, rest := countColumns, timesColumns, percentColumns+leastColumns
	if !hasTotal {
		counts, times, rest = 22, 9, 2 // as in (1.2 GiB, 123 MiB/s) and [12m34s], behind a spinner
	}
	for _, l := range []layout{{true, true, true}, {false, true, true}, {true, true, false}, {false, true, false}, {true, false, false}} {
		needed := rest + numbers
		if l.word {
			needed += word
		}
		if l.counts {
			needed += counts
		}
		if l.times {
			needed += times
		}
		if (l.word || numbers > 0) && needed <= columns {
			return l
		}
	}
	return layout{word: numbers == 0}
}

// bar is a progress bar on standard error.
type bar struct {
	*progressbar.ProgressBar
	layout
	what string
}

// newBar returns a bar that says what is done, and then numbers of so many columns. The total is in
// bytes, and less than 1 if it is unknown.
func newBar(what string, numbers int, total int64) *bar {
	if total < 1 {
		total = -1
	}
	columns, _, err := term.GetSize(int(os.Stderr.Fd()))
	if err != nil || columns < 1 {
		columns = usualColumns
	}
	b := &bar{layout: layoutFor(columns, len(what), numbers, total > 0), what: what}
	options := []progressbar.Option{
		progressbar.OptionSetDescription(b.description("")),
		progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionShowBytes(b.counts),
		progressbar.OptionUseIECUnits(true),
		progressbar.OptionSetElapsedTime(b.times),
		progressbar.OptionSetPredictTime(b.times),
		progressbar.OptionUseANSICodes(true),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetSpinnerChangeInterval(0), // It then starts no goroutine.
	}
	if b.counts {
		options = append(options, progressbar.OptionShowCount())
	}
	b.ProgressBar = progressbar.NewOptions64(total, options...)
	b.StartWithoutRender() // The rate counts from here.
	return b
}

func (b *bar) description(numbers string) string {
	if b.word {
		return strings.TrimSpace(b.what + " " + numbers)
	}
	return numbers
}

// draw draws the bar with numbers in its description, at n bytes.
func (b *bar) draw(numbers string, n int64) {
	b.Describe(b.description(numbers))
	_ = b.Set64(n)
}

// isWatched tells whether standard error is a terminal on which progress may be drawn, for it has
// no lines of JSON.
func isWatched() bool { return isTextLog() && !quiet.Load() && term.IsTerminal(int(os.Stderr.Fd())) }

// showProgress draws a progress bar on standard error if that is a terminal and the work lasts more
// than half a second. The total is in bytes, or -1 if it is unknown. The bar goes when done is
// called.
func showProgress(what string, read func() int64, total int64) (done func()) {
	bar := newBar(what, 0, total)
	l := showLine(nil, func() { _ = bar.Set64(read()) }, func() { _ = bar.Clear() })
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
	skips skips

	shown *line
}

func newMonitor(word string, p *plan) *monitor {
	return &monitor{word: word, plan: p, from: time.Now(), left: p.bytes}
}

// addBefore counts what an earlier run did.
func (m *monitor) addBefore(o outcome, i item) {
	m.total.add(o)
	if o.Result == resultSkipped {
		m.total.skippedBefore++
	} else {
		m.total.before++
	}
	m.left -= max(i.size, 0)
}

// start says what there is to do, and shows from now on how it comes on, until shown is closed.
func (m *monitor) start() {
	if m.plan.objects > 1 {
		say(slog.LevelInfo, fmt.Sprintf("found %s of %s", count(m.plan.objects, "object"), sizeText(m.plan.bytes)), "objects", m.plan.objects, "bytes", m.plan.bytes)
	}
	bar := newBar(m.word, len(m.progress(m.plan.total())), m.left)
	m.shown = showLine(m.text, func() {
		sum := m.sum()
		// A bar that reaches its end is over, and an object may have grown since it was listed.
		bar.draw(m.progress(sum.objects()), min(m.read.Load(), max(m.left-1, 0)))
	}, func() { _ = bar.Clear() })
}

// progress says how many objects of all there are to come to an end have done so.
func (m *monitor) progress(objects int64) string {
	return fmt.Sprintf("%d of %d", objects, m.plan.total())
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

// add counts an outcome, and says at once why an object failed. Of those that were skipped, sayRest
// speaks.
func (m *monitor) add(o outcome) {
	m.mu.Lock()
	m.total.add(o)
	if o.Result == resultSkipped {
		m.skips.add(o)
	}
	m.mu.Unlock()
	if o.Reason != "" && o.Result != resultSkipped {
		m.shown.say(slog.LevelError, fmt.Sprintf("%s %s: %s", o.Result, printable(o.Name), o.Reason), "object", o.Name, "result", o.Result, "reason", o.Reason)
	}
}

// skips counts the objects that were skipped for each reason.
type skips struct {
	reasons []string // in the order in which they came
	byWhy   map[string]*skip
}

// skip is what was skipped for one reason.
type skip struct {
	objects int64
	name    string // of the first one
}

func (s *skips) add(o outcome) {
	one := s.byWhy[o.Reason]
	if one == nil {
		if s.byWhy == nil {
			s.byWhy = make(map[string]*skip)
		}
		one = &skip{name: o.Name}
		s.byWhy[o.Reason] = one
		s.reasons = append(s.reasons, o.Reason)
	}
	one.objects++
}

// sayRest says how many objects were skipped, in a line for each reason. The report names each.
func (m *monitor) sayRest() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, why := range m.skips.reasons {
		one := m.skips.byWhy[why]
		text := fmt.Sprintf("skipped %s: %s", printable(one.name), why)
		if one.objects > 1 {
			text = fmt.Sprintf("skipped %d objects, such as %s: %s", one.objects, printable(one.name), why)
		}
		say(slog.LevelInfo, text, "result", resultSkipped, "objects", one.objects, "object", one.name, "reason", why)
	}
}

// sizeText returns a size for people: from 1 MiB on in binary units.
func sizeText(n int64) string {
	if n < 1<<20 {
		return count(n, "byte")
	}
	return readable(n)
}

func (m *monitor) sum() summary {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total
}

func (m *monitor) took() string {
	return fmt.Sprintf(", in %v", time.Since(m.from).Round(time.Millisecond))
}

// fields returns what the last line says, for programs.
func (m *monitor) fields(calls int64) []any {
	sum := m.sum()
	return []any{
		"result", m.word, "objects", sum.done, "bytes", sum.bytes, "skipped", sum.skipped, "failed", sum.failed,
		"before", sum.before + sum.skippedBefore, "total", m.plan.total(), "calls", calls, "seconds", time.Since(m.from).Seconds(),
		"left_out", m.plan.leftFields(),
	}
}

// toldError is an error with what programs are told beside it.
type toldError struct {
	error
	fields []any
}

// Unwrap returns the error.
func (t *toldError) Unwrap() error { return t.error }

// withFields returns an error with what programs are told beside it.
func withFields(err error, fields []any) error { return &toldError{err, fields} }

// fieldsOf returns what programs are told beside an error.
func fieldsOf(err error) []any {
	if t, ok := errors.AsType[*toldError](err); ok {
		return t.fields
	}
	return nil
}
