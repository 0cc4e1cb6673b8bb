package work

import (
	"fmt"
	"log/slog"
	"strings"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
)

// leftText returns the counts of what is left out, by kind, for the last line.
func (p *Plan) leftText() string {
	var all []string
	for kind, n := range p.left {
		switch {
		case n == 1:
			all = append(all, "1 "+places.LeftKinds[kind].One)
		case n > 1:
			all = append(all, fmt.Sprintf("%d %s", n, places.LeftKinds[kind].Many))
		}
	}
	if all == nil {
		return ""
	}
	return "; left out " + strings.Join(all, ", ")
}

// leftFields returns the counts of leftText for programs: how many things of each kind are left
// out.
func (p *Plan) leftFields() map[string]int64 {
	fields := make(map[string]int64)
	for kind, n := range p.left {
		if n > 0 {
			fields[places.LeftKinds[kind].Many] = n
		}
	}
	return fields
}

// LeftContent returns how many things are left out that may hold content.
func (p *Plan) LeftContent() (n int64) {
	for kind, many := range p.left {
		if places.LeftKinds[kind].MayHold {
			n += many
		}
	}
	return n
}

// LeftAdvice returns what to do about what is left out and may hold content.
func (p *Plan) LeftAdvice() string {
	return fmt.Sprintf("%d of what is left out may hold content; --exclude leaves it out knowingly", p.LeftContent())
}

// leftNamed is how many of the things that are left out are named on standard error.
const leftNamed = 20

// sayLeft names what is left out and may hold content.
func (p *Plan) sayLeft(say func(level slog.Level, text string, fields ...any)) {
	n := int64(0)
	if p.LeftContent() == 0 {
		return
	}
	for i := range p.LeftOut() {
		if !places.LeftKinds[i.Left].MayHold {
			continue
		}
		if n++; n > leftNamed {
			say(slog.LevelError, fmt.Sprintf("left out %d more; --report names all", p.LeftContent()-leftNamed))
			return
		}
		say(slog.LevelError, fmt.Sprintf("left out %s: %s", console.Printable(i.Title()), places.LeftKinds[i.Left].Reason), "object", i.Title(), "reason", places.LeftKinds[i.Left].Reason)
	}
}
