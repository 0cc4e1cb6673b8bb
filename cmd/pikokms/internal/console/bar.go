package console

import (
	"os"
	"strings"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// The columns that parts of a progress bar take at most, with the spaces around them.
const (
	percentColumns = 8  // the percentage and the ends of the bar
	countColumns   = 29 // as in (1.2 GiB/3.4 GiB, 123 MiB/s)
	timesColumns   = 18 // as in [12m34s:1h23m45s]
	minBarColumns  = 4  // of the bar itself
	defaultColumns = 80 // of a terminal whose size is unknown
)

// layout is what a progress bar shows on a terminal.
type layout struct{ word, counts, times bool }

// layoutFor returns the fullest layout that fits into columns. The parameters word and numbers are
// the widths of the two parts of the description. Without a total there is neither a bar nor a time
// left.
func layoutFor(columns, word, numbers int, hasTotal bool) layout {
	counts, times, rest := countColumns, timesColumns, percentColumns+minBarColumns
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

// Bar is a progress bar on standard error.
type Bar struct {
	*progressbar.ProgressBar
	layout
	what string
}

// NewBar returns a bar whose description is what, followed by numbers of up to so many columns. The
// total is in bytes; less than 1 means that it is unknown.
func NewBar(what string, numbers int, total int64) *Bar {
	if total < 1 {
		total = -1
	}
	columns, _, err := term.GetSize(int(os.Stderr.Fd()))
	if err != nil || columns < 1 {
		columns = defaultColumns
	}
	b := &Bar{layout: layoutFor(columns, len(what), numbers, total > 0), what: what}
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

func (b *Bar) description(numbers string) string {
	if b.word {
		return strings.TrimSpace(b.what + " " + numbers)
	}
	return numbers
}

// Draw draws the bar with numbers in its description, at n bytes.
func (b *Bar) Draw(numbers string, n int64) {
	b.Describe(b.description(numbers))
	_ = b.Set64(n)
}

// isWatched reports whether progress may be drawn: standard error is a terminal, and the log is
// text and not limited to errors.
func isWatched() bool { return IsTextLog() && !IsQuiet() && term.IsTerminal(int(os.Stderr.Fd())) }

// ShowProgress draws a progress bar on standard error if that is a terminal and the work lasts more
// than half a second. The total is in bytes, or -1 if it is unknown. The caller calls done, which
// removes the bar.
func ShowProgress(what string, read func() int64, total int64) (done func()) {
	bar := NewBar(what, 0, total)
	l := ShowLine(nil, func() { _ = bar.Set64(read()) }, func() { _ = bar.Clear() })
	return l.Close
}
