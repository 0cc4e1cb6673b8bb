package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// each is how a command works on several objects: the flags, and what came of it.
type each struct {
	include, exclude []string
	jobs             int
	report           string
	given            func(flag string) bool
}

// add adds the flags.
func (e *each) add(command *cobra.Command) {
	flags := command.Flags()
	e.given = func(flag string) bool { return isGiven(flags, flag) }
	flags.StringArrayVar(&e.include, "include", nil, "take only objects that this `GLOB` matches; may be repeated")
	flags.StringArrayVar(&e.exclude, "exclude", nil, "leave out objects that this `GLOB` matches; may be repeated")
	flags.IntVar(&e.jobs, "jobs", 4*runtime.GOMAXPROCS(0), "the number of objects that are worked on side by side")
}

// addReport adds the flag of commands whose work has a report.
func (e *each) addReport(command *cobra.Command) {
	command.Flags().StringVar(&e.report, "report", "", "write a line of JSON for each object to this `FILE`")
}

// isWanted tells whether a command line is about places, rather than one file or stream.
func (e *each) isWanted(arguments []string) bool {
	for _, flag := range []string{"include", "exclude", "jobs"} {
		if e.given(flag) {
			return true
		}
	}
	if len(arguments) == 0 || arguments[0] == "-" {
		return false
	}
	info, err := os.Stat(arguments[0])
	return strings.Contains(arguments[0], "://") || err == nil && info.IsDir()
}

// item is an object to work on.
type item struct {
	place *place
	key   string
}

func (i item) title() string { return i.place.title(i.key) }

// outcome is what came of the work on one object. Its JSON form is stable.
type outcome struct {
	Name   string `json:"name"`
	Result string `json:"result"`           // "skipped", "failed", or the work's own word for done
	Bytes  int64  `json:"bytes"`            // that were read, or for verify of plaintext, if it is done
	Reason string `json:"reason,omitempty"` // why it was skipped or failed
}

// skipped means that an object needs no work, for this reason.
type skipped string

// Error implements error.
func (s skipped) Error() string { return string(s) }

// open opens the places, and returns their objects that are wanted.
func (e *each) open(ctx context.Context, texts []string) (items []item, closeAll func(), err error) {
	var places []*place
	closePlaces := func() {
		for _, p := range places {
			_ = p.Close()
		}
	}
	defer func() {
		if err != nil {
			closePlaces()
		}
	}()
	if e.jobs < 1 {
		return nil, nil, usageError{fmt.Errorf("--jobs is %d; 1 is the least", e.jobs)}
	}
	included, err := globs(e.include)
	if err != nil {
		return nil, nil, usageError{fmt.Errorf("--include: %w", err)}
	}
	excluded, err := globs(e.exclude)
	if err != nil {
		return nil, nil, usageError{fmt.Errorf("--exclude: %w", err)}
	}
	wanted := func(key string) bool {
		return (len(e.include) == 0 || included(key)) && !excluded(key)
	}
	if len(texts) == 0 {
		texts = []string{"-"}
	}
	for _, text := range texts {
		p, err := openPlace(ctx, text)
		if err != nil {
			return nil, nil, err
		}
		places = append(places, p)
		keys, err := p.keys(ctx, wanted)
		if err != nil {
			return nil, nil, err
		}
		for _, key := range keys {
			items = append(items, item{p, key})
		}
	}
	if len(items) == 0 {
		return nil, nil, errors.New("there are no such objects")
	}
	return items, closePlaces, nil
}

// inOrder has results of work on several items side by side, and gives them to take in their order.
func inOrder[T any](ctx context.Context, jobs int, items []item, work func(item) T, take func(T) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var working sync.WaitGroup
	defer working.Wait()
	waiting := make(chan chan T, 4*jobs)
	slots := make(chan struct{}, jobs)
	working.Go(func() {
		defer close(waiting)
		for _, i := range items {
			result := make(chan T, 1)
			select {
			case waiting <- result:
			case <-ctx.Done():
				return
			}
			slots <- struct{}{}
			working.Go(func() {
				defer func() { <-slots }()
				result <- work(i)
			})
		}
	})
	for result := range waiting {
		if err := take(<-result); err != nil {
			cancel()
			for rest := range waiting { // each has a room for its result
				_ = rest
			}
			return err
		}
	}
	return ctx.Err()
}

// run works on each item. The word says what is done with one: "verified". What failed is said on
// standard error, and makes the error.
func (e *each) run(ctx context.Context, word string, items []item, calls func() int64, work func(context.Context, item) (int64, error)) (err error) {
	begin := time.Now()
	var report *json.Encoder
	if e.report != "" {
		f, err := os.Create(e.report)
		if err != nil {
			return usageError{fmt.Errorf("--report: %w", err)}
		}
		defer func() {
			if closeErr := f.Close(); err == nil && closeErr != nil {
				err = fmt.Errorf("--report: %w", closeErr)
			}
		}()
		report = json.NewEncoder(f)
		report.SetEscapeHTML(false)
	}
	var sum summary
	shown := begin
	err = inOrder(ctx, e.jobs, items, func(i item) outcome {
		o := outcome{Name: i.title(), Result: word}
		if ctx.Err() != nil { // it was not begun
			o.Result, o.Reason = "failed", "interrupted"
			return o
		}
		n, err := work(ctx, i)
		var reason skipped
		switch {
		case errors.As(err, &reason):
			o.Result, o.Reason = "skipped", string(reason)
		case err != nil:
			o.Result, o.Reason = "failed", explain(err)
		default:
			o.Bytes = n
		}
		return o
	}, func(o outcome) error {
		if ctx.Err() != nil && o.Result == "failed" {
			return ctx.Err() // its failure is the interruption's
		}
		sum.add(o)
		if o.Reason != "" {
			level := slog.LevelError
			if o.Result == "skipped" {
				level = slog.LevelInfo
			}
			say(level, fmt.Sprintf("%s %s: %s", o.Result, printable(o.Name), o.Reason), "object", o.Name, "result", o.Result, "reason", o.Reason)
		}
		if now := time.Now(); now.Sub(shown) >= progressInterval {
			shown = now
			say(slog.LevelInfo, fmt.Sprintf("%s, of %d", sum.text(word), len(items)))
		}
		if report != nil {
			if err := report.Encode(o); err != nil {
				return fmt.Errorf("--report: %w", err)
			}
		}
		return nil
	})
	text := sum.text(word)
	if n := calls(); n > 0 {
		text += fmt.Sprintf(", %s", count(n, "KMS call"))
	}
	text += fmt.Sprintf(", in %v", time.Since(begin).Round(time.Millisecond))
	if err == nil && sum.failed > 0 {
		return errors.New(text)
	}
	say(slog.LevelInfo, text)
	return err
}

// progressInterval is the time between two lines about long work.
const progressInterval = 10 * time.Second

// summary counts outcomes.
type summary struct{ done, bytes, skipped, failed int64 }

func (s *summary) add(o outcome) {
	switch o.Result {
	case "skipped":
		s.skipped++
	case "failed":
		s.failed++
	default:
		s.done++
		s.bytes += o.Bytes
	}
}

func (s *summary) text(word string) string {
	text := fmt.Sprintf("%s %s of %s", word, count(s.done, "object"), count(s.bytes, "byte"))
	if s.skipped > 0 {
		text += fmt.Sprintf(", %d skipped", s.skipped)
	}
	if s.failed > 0 {
		text += fmt.Sprintf(", %d failed", s.failed)
	}
	return text
}

func count(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
