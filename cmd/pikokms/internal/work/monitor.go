package work

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
)

// monitor shows the progress of work on several objects on standard error: as a bar on a terminal,
// and as a line every lineEvery elsewhere.
type monitor struct {
	word string
	plan *Plan
	from time.Time
	read atomic.Int64 // bytes that were read in this run, with those of objects that are being worked on
	left int64        // bytes that were left to read when this run began

	mu    sync.Mutex
	total summary
	skips skips

	shown *console.Line
}

func newMonitor(word string, p *Plan) *monitor {
	return &monitor{word: word, plan: p, from: time.Now(), left: p.bytes}
}

// addEarlier counts what an earlier run did.
func (m *monitor) addEarlier(o Outcome, i Item) {
	m.total.add(o)
	if o.Result == resultSkipped {
		m.total.skippedEarlier++
	} else {
		m.total.earlier++
	}
	m.left -= max(i.Size, 0)
}

// start reports what there is to do, and shows the progress until shown is closed.
func (m *monitor) start() {
	if m.plan.Objects > 1 {
		console.Say(slog.LevelInfo, fmt.Sprintf("found %s of %s", console.Count(m.plan.Objects, "object"), console.SizeText(m.plan.bytes)), "objects", m.plan.Objects, "bytes", m.plan.bytes)
	}
	bar := console.NewBar(m.word, len(m.progress(m.plan.total())), m.left)
	m.shown = console.ShowLine(m.text, func() {
		sum := m.sum()
		// A bar that reaches its end is over, and an object may have grown since it was listed.
		bar.Draw(m.progress(sum.objects()), min(m.read.Load(), max(m.left-1, 0)))
	}, func() { _ = bar.Clear() })
}

// progress returns how many objects of all that the plan has are finished.
func (m *monitor) progress(objects int64) string {
	return fmt.Sprintf("%d of %d", objects, m.plan.total())
}

// text returns the line of progress.
func (m *monitor) text() string {
	sum, elapsed, read := m.sum(), time.Since(m.from), m.read.Load()
	text := fmt.Sprintf("%s, of %d; %.1f MB/s", sum.text(m.word), m.plan.total(), float64(read)/1e6/elapsed.Seconds())
	if read > 0 && read < m.left {
		text += fmt.Sprintf(", %v left", (time.Duration(float64(elapsed) * float64(m.left-read) / float64(read))).Round(time.Second))
	}
	return text
}

// begin counts the bytes of an object as they are read. The caller calls end when the work on the
// object is over. The first PeekSize bytes count only then: they are read before a key service is
// asked, and most of the work on a small object comes after that.
func (m *monitor) begin(i *Item) (end func()) {
	var read, counted atomic.Int64
	i.tell = func(n int) {
		if ahead := read.Add(int64(n)) - places.PeekSize - counted.Load(); ahead > 0 {
			counted.Add(ahead)
			m.read.Add(ahead)
		}
	}
	return func() { m.read.Add(max(i.Size, 0) - counted.Load()) }
}

// add counts an outcome, and reports at once why an object failed. saySkipped reports those that
// were skipped.
func (m *monitor) add(o Outcome) {
	m.mu.Lock()
	m.total.add(o)
	if o.Result == resultSkipped {
		m.skips.add(o)
	}
	m.mu.Unlock()
	if o.Reason != "" && o.Result != resultSkipped {
		m.shown.Say(slog.LevelError, fmt.Sprintf("%s %s: %s", o.Result, console.Printable(o.Name), o.Reason), "object", o.Name, "result", o.Result, "reason", o.Reason)
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

func (s *skips) add(o Outcome) {
	entry := s.byWhy[o.Reason]
	if entry == nil {
		if s.byWhy == nil {
			s.byWhy = make(map[string]*skip)
		}
		entry = &skip{name: o.Name}
		s.byWhy[o.Reason] = entry
		s.reasons = append(s.reasons, o.Reason)
	}
	entry.objects++
}

// saySkipped reports how many objects were skipped, in a line for each reason. The file of --report
// names each object.
func (m *monitor) saySkipped() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, why := range m.skips.reasons {
		entry := m.skips.byWhy[why]
		text := fmt.Sprintf("skipped %s: %s", console.Printable(entry.name), why)
		if entry.objects > 1 {
			text = fmt.Sprintf("skipped %d objects, such as %s: %s", entry.objects, console.Printable(entry.name), why)
		}
		console.Say(slog.LevelInfo, text, "result", resultSkipped, "objects", entry.objects, "object", entry.name, "reason", why)
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

// fields returns the figures of the last line for programs.
func (m *monitor) fields(calls int64) []any {
	sum := m.sum()
	return []any{
		"result", m.word, "objects", sum.done, "bytes", sum.bytes, "skipped", sum.skipped, "failed", sum.failed,
		"before", sum.earlier + sum.skippedEarlier, "total", m.plan.total(), "calls", calls, "seconds", time.Since(m.from).Seconds(),
		"left_out", m.plan.leftFields(),
	}
}
