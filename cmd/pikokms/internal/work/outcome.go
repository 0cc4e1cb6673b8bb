package work

import (
	"fmt"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
)

// Outcome is what came of the work on one object. Its JSON form is stable.
type Outcome struct {
	Name   string `json:"name,omitempty"`   // never empty in a report
	Result string `json:"result"`           // "skipped", "failed", "left out", or the work's own word for done
	Bytes  int64  `json:"bytes"`            // that were read, or for verify of plaintext, if it is done
	Reason string `json:"reason,omitempty"` // why it was skipped, failed, or left out

	err error // of the last try
}

// The results that are not the work's own word.
const (
	resultSkipped = "skipped"
	ResultFailed  = "failed"
)

// resultPlanned is the word of --dry-run for an object that would be worked on.
const resultPlanned = "planned"

// Skipped means that an object needs no work, for this reason.
type Skipped string

func (s Skipped) Error() string { return string(s) }

// summary counts outcomes.
type summary struct {
	done, bytes, skipped, failed int64
	earlier, skippedEarlier      int64 // how many of done and of skipped come from an earlier run's journal
}

func (s *summary) add(o Outcome) {
	switch o.Result {
	case resultSkipped:
		s.skipped++
	case ResultFailed:
		s.failed++
	default:
		s.done++
		s.bytes += o.Bytes
	}
}

func (s *summary) objects() int64 { return s.done + s.skipped + s.failed }

func (s *summary) text(word string) string {
	text := word + " " + console.Count(s.done, "object")
	if s.earlier > 0 {
		text += fmt.Sprintf(" (%d of them before)", s.earlier)
	}
	text += " of " + console.SizeText(s.bytes)
	if s.skipped > 0 {
		text += fmt.Sprintf(", %d skipped", s.skipped)
	}
	if s.skippedEarlier > 0 {
		text += fmt.Sprintf(" (%d of them before)", s.skippedEarlier)
	}
	if s.failed > 0 {
		text += fmt.Sprintf(", %d failed", s.failed)
	}
	return text
}

// resultLeftOut is the result of what is left out, in a report.
const resultLeftOut = "left out"
