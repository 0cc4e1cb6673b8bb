package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"gocloud.dev/gcerrors"

	"piko.sh/pikokms"
)

// each is how a command works on several objects: the flags, and what came of it.
type each struct {
	include, exclude []string
	jobs             int
	given            func(flag string) bool
	longWork
}

// add adds the flags.
func (e *each) add(command *cobra.Command) {
	flags := command.Flags()
	e.given = func(flag string) bool { return isGiven(flags, flag) }
	e.command = command
	flags.StringArrayVar(&e.include, "include", nil, "take only objects that this `GLOB` matches; may be repeated")
	flags.StringArrayVar(&e.exclude, "exclude", nil, "leave out objects that this `GLOB` matches; may be repeated")
	flags.IntVar(&e.jobs, "jobs", 4*runtime.GOMAXPROCS(0), "the number of objects that are worked on side by side")
	addStorageTimeout(command)
}

// isWanted tells whether a command line is about places, rather than one file or stream.
func (e *each) isWanted(arguments []string) bool {
	for _, flag := range []string{"include", "exclude", "jobs", "report", "resume", "kms-rate", "cache-data-keys"} {
		if e.given(flag) {
			return true
		}
	}
	if len(arguments) > 1 {
		return true
	}
	if len(arguments) == 0 || arguments[0] == "-" {
		return false
	}
	info, err := os.Stat(arguments[0])
	return strings.Contains(arguments[0], "://") || err == nil && info.IsDir()
}

// outcome is what came of the work on one object. Its JSON form is stable.
type outcome struct {
	Name   string `json:"name,omitempty"`   // never empty in a report
	Result string `json:"result"`           // "skipped", "failed", "left out", or the work's own word for done
	Bytes  int64  `json:"bytes"`            // that were read, or for verify of plaintext, if it is done
	Reason string `json:"reason,omitempty"` // why it was skipped, failed, or left out

	err error // of the last try
}

// The results that are not the work's own word.
const (
	resultSkipped = "skipped"
	resultFailed  = "failed"
)

// resultPlanned is the word of --dry-run for an object that would be worked on.
const resultPlanned = "planned"

// skipped means that an object needs no work, for this reason.
type skipped string

// Error implements error.
func (s skipped) Error() string { return string(s) }

// gcWhileListing is by how many percent the garbage may exceed what is in use while objects are
// listed, of which there may be millions. The usual 100 holds while they are worked on.
const gcWhileListing = 25

// open opens the places and lists their objects that are wanted. The plan of a job that is resumed
// is that of its journal.
func (e *each) open(ctx context.Context, texts []string) (p *plan, err error) {
	opening := new(plan)
	p = opening
	defer func() {
		if err != nil {
			opening.Close()
			err = errors.Join(err, e.closeJournal(false))
		}
	}()
	if e.jobs < 1 {
		return nil, usage(fmt.Errorf("--jobs is %d; 1 is the least", e.jobs))
	}
	wanted, err := e.wanted()
	if err != nil {
		return nil, err
	}
	if len(texts) == 0 {
		texts = []string{"-"}
	}
	for _, text := range texts {
		opened, err := openPlace(ctx, text)
		if err != nil {
			return nil, err
		}
		p.places = append(p.places, opened)
	}
	if p.report, err = openReport(e.report); err != nil {
		return nil, err
	}
	planned, err := e.openJournal(p, texts)
	if err != nil {
		return nil, err
	}
	if planned && len(p.unlisted) == 0 {
		return p, nil
	}
	todo := p.unlisted // what could not be listed before
	p.unlisted = nil
	for i := range p.places {
		if !planned {
			todo = append(todo, unlisted{Place: i})
		}
	}
	// What is listed is garbage at once, but for the names.
	defer debug.SetGCPercent(debug.SetGCPercent(gcWhileListing))
	own := e.ownFiles()
	for _, u := range todo {
		if err := p.list(ctx, u.Place, u.Key, wanted, own); err != nil {
			return nil, err
		}
	}
	if !planned {
		wanted.sayUnused()
	}
	// A prefix of a bucket exists only in what is below it.
	isSought := len(e.include) > 0 || len(e.exclude) > 0 || slices.ContainsFunc(p.places, func(at *place) bool { return at.prefix != "" || !at.isMany() })
	if p.total() == 0 && isSought && (p.leftText() == "" || !slices.ContainsFunc(p.places, (*place).isMany)) {
		return nil, errors.New("there are no such objects")
	}
	if e.journal != nil {
		err = e.journal.savePlan(p)
	}
	return p, err
}

// inOrder has results of work on several items side by side, and gives them to take in their order.
func inOrder[I, T any](ctx context.Context, jobs int, items iter.Seq[I], work func(I) T, take func(T) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var working sync.WaitGroup
	defer working.Wait()
	waiting := make(chan chan T, 4*jobs)
	slots := make(chan struct{}, jobs)
	working.Go(func() {
		defer close(waiting)
		for i := range items {
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

// run works on each object of a plan. The word says what is done with one: "verified". What failed
// is said on standard error, and makes the error.
func (e *each) run(ctx context.Context, word string, p *plan, work func(context.Context, item) (int64, error)) (err error) {
	finished, come := false, error(nil)
	// If the report can't be written, the journal stays. The same command line then writes the report.
	defer func() {
		err = errors.Join(err, e.closeJournal(finished && err == nil))
		if finished && err == nil && p.leftContent() > 0 {
			err = errors.New(p.leftAdvice())
		}
		err = errors.Join(err, come)
	}()
	m := newMonitor(word, p)
	report := p.report
	p.report = nil // Close need not close it
	defer func() { err = errors.Join(err, report.close()) }()
	if err := report.begin(); err != nil {
		return err
	}
	todo, err := e.restore(p, m, report)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := finishOnSignal(ctx)
	defer stop.release()
	if p.total() == 0 {
		say(slog.LevelInfo, "there is nothing in "+p.names())
	}
	m.start()
	defer m.shown.close()
	for _, u := range p.unlisted {
		o := outcome{Name: p.titleOf(u), Result: resultFailed, Reason: u.Reason}
		m.add(o)
		if err := report.write(o); err != nil {
			return err
		}
	}
	p.sayLeft(m.shown.say)
	if report != nil {
		for i := range p.leftOut() {
			if err := report.write(outcome{Name: i.title(), Result: resultLeftOut, Reason: leftKinds[i.left].reason}); err != nil {
				return err
			}
		}
	}
	err = inOrder(ctx, e.jobs, stop.until(todo), func(i item) outcome {
		if stop.isAsked() || ctx.Err() != nil {
			return outcome{} // it was not begun
		}
		o := e.workOn(ctx, m, i, stop, work)
		stop.count(o.err)
		if e.journal != nil && o.Result != resultFailed {
			e.journal.add(i.index, o)
		}
		return o
	}, func(o outcome) error {
		if o.Result == "" || ctx.Err() != nil && o.Result == resultFailed {
			return ctx.Err() // its failure is the interruption's
		}
		m.add(o)
		if o.Result == resultPlanned {
			m.shown.say(slog.LevelInfo, fmt.Sprintf("%s %s: %s", resultPlanned, printable(o.Name), count(o.Bytes, "byte")), "object", o.Name, "result", o.Result, "bytes", o.Bytes)
		}
		if e.journal != nil {
			if err := e.journal.err(); err != nil {
				cancel()
				return err
			}
		}
		return report.write(o)
	})
	m.shown.close()
	m.sayRest()
	sum := m.sum()
	text := sum.text(word) + e.cost() + m.took() + p.leftText()
	switch {
	case err == nil && stop.reason() != "" && sum.objects() < p.total():
		err = fmt.Errorf("%s, of %d; stopped after %s; %s", text, p.total(), stop.reason(), e.advice())
	case err == nil && stop.isAsked() && sum.objects() < p.total():
		err = fmt.Errorf("interrupted: %s, of %d; %s", text, p.total(), e.advice())
	case err == nil && sum.failed > 0:
		err = errors.New(text + e.failedAdvice())
	default:
		finished = err == nil
		say(slog.LevelInfo, text, m.fields(e.calls())...)
	}
	if err != nil {
		err = withFields(err, m.fields(e.calls()))
	}
	if finished && e.resumed {
		come = e.newcomers(ctx, p)
	}
	return err
}

// workOn works on one object, again if its failure may pass.
func (e *each) workOn(ctx context.Context, m *monitor, i item, stop *stopping, work func(context.Context, item) (int64, error)) outcome {
	defer m.begin(&i)()
	o := outcome{Name: i.title(), Result: m.word}
	ctx, end := traceObject(ctx, i.index, o.Name, i.size)
	n, err := retry(ctx, i, stop, work)
	if isGone(ctx, i, err) {
		err = skipped("it was deleted after it was listed")
	}
	o.err = err
	var reason skipped
	switch {
	case errors.As(err, &reason):
		o.Result, o.Reason = resultSkipped, string(reason)
	case err != nil:
		o.Result, o.Reason = resultFailed, explain(err)
	default:
		o.Bytes = n
	}
	if o.Result != resultFailed {
		err = nil
	}
	end(o.Result, err)
	return o
}

// isGone tells whether the work on an object failed because it is no longer there. That is asked of
// the listing that had it: what is listed, and can't be found, has failed.
func isGone(ctx context.Context, i item, err error) bool {
	missing := errors.Is(err, fs.ErrNotExist) || errors.Is(err, pikokms.ErrChanged) || gcerrors.Code(err) == gcerrors.NotFound
	if err == nil || !missing || !i.place.isMany() {
		return false
	}
	for l, err := range i.place.list(ctx, i.key) {
		switch {
		case err != nil || l.key == i.key:
			return false
		case l.left == 0:
			return true // keys are listed in their order
		}
	}
	return true
}

// reportFile is the file of --report. It is nil if there is none.
type reportFile struct {
	file  *os.File
	lines *json.Encoder

	empties bool // whether begin empties the file
}

// openReport opens the file, or makes it. What an earlier command wrote stays until begin.
func openReport(path string) (*reportFile, error) {
	if path == "" {
		return nil, nil
	}
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		if own := ownStream(path, info); own != nil {
			return newReport(own, false), nil
		}
	}
	path, err := resolveOutput(path, true)
	if err != nil {
		return nil, blameReport(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|noFollow, 0o666)
	if err != nil {
		return nil, blameReport(err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, blameReport(errors.Join(err, f.Close()))
	}
	return newReport(f, info.Mode().IsRegular()), nil
}

func newReport(f *os.File, empties bool) *reportFile {
	r := &reportFile{f, json.NewEncoder(f), empties}
	r.lines.SetEscapeHTML(false)
	return r
}

// begin empties the file.
func (r *reportFile) begin() error {
	if r == nil {
		return nil
	}
	if !r.empties {
		return nil
	}
	return blameReport(r.file.Truncate(0))
}

func (r *reportFile) write(o outcome) error {
	if r == nil {
		return nil
	}
	if !utf8.ValidString(o.Name) {
		o.Name = printable(o.Name) // JSON has no such names
	}
	return blameReport(r.lines.Encode(o))
}

func (r *reportFile) close() error {
	if r == nil {
		return nil
	}
	return blameReport(r.file.Close())
}

func blameReport(err error) error {
	if err != nil {
		err = fmt.Errorf("--report: %w", err)
	}
	return err
}

// summary counts outcomes.
type summary struct {
	done, bytes, skipped, failed int64
	before, skippedBefore        int64 // objects of done and of skipped of which an earlier run's journal says so
}

func (s *summary) add(o outcome) {
	switch o.Result {
	case resultSkipped:
		s.skipped++
	case resultFailed:
		s.failed++
	default:
		s.done++
		s.bytes += o.Bytes
	}
}

func (s *summary) objects() int64 { return s.done + s.skipped + s.failed }

func (s *summary) text(word string) string {
	text := word + " " + count(s.done, "object")
	if s.before > 0 {
		text += fmt.Sprintf(" (%d of them before)", s.before)
	}
	text += " of " + sizeText(s.bytes)
	if s.skipped > 0 {
		text += fmt.Sprintf(", %d skipped", s.skipped)
	}
	if s.skippedBefore > 0 {
		text += fmt.Sprintf(" (%d of them before)", s.skippedBefore)
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
