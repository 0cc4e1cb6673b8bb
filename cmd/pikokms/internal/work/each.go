// Package work does a job on each of many objects: it lists them, tries again what fails for a
// while, keeps a journal, and reports.
package work

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"gocloud.dev/gcerrors"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/cmd/pikokms/internal/telemetry"
	"piko.sh/pikokms/cmd/pikokms/settings"
)

// Each works on several objects for a command. It has the flags for that.
type Each struct {
	include, exclude []string
	jobs             int
	given            func(flag string) bool
	storages         places.Opener
	longWork
}

// Add adds the flags.
func (e *Each) Add(command *cobra.Command) {
	flags := command.Flags()
	e.given = func(flag string) bool { return settings.IsGiven(flags, flag) }
	e.command = command
	flags.StringArrayVar(&e.include, "include", nil, "take only objects that this `GLOB` matches; may be repeated")
	flags.StringArrayVar(&e.exclude, "exclude", nil, "leave out objects that this `GLOB` matches; may be repeated")
	console.ShowInShortHelp(flags, "include", "exclude")
	console.AddTopics(command, "places", "files")
	flags.IntVar(&e.jobs, "jobs", 4*runtime.GOMAXPROCS(0), "the number of objects that are worked on side by side")
	e.storages.AddTimeout(command)
}

// IsForPlaces reports whether a command line is about places, rather than one file or stream.
func (e *Each) IsForPlaces(arguments []string) bool {
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

// gcWhileListing is the garbage collector's percentage (see [debug.SetGCPercent]) while objects are
// listed, of which there may be millions. While they are worked on it is the usual one.
const gcWhileListing = 25

// Open opens the places and lists those of their objects that the flags select. The plan of a
// resumed job comes from its journal.
func (e *Each) Open(ctx context.Context, texts []string) (p *Plan, err error) {
	opening := new(Plan)
	p = opening
	defer func() {
		if err != nil {
			opening.Close()
			err = errors.Join(err, e.closeJournal(false))
		}
	}()
	if e.jobs < 1 {
		return nil, console.Usage(fmt.Errorf("--jobs is %d; 1 is the least", e.jobs))
	}
	selected, err := e.selection()
	if err != nil {
		return nil, err
	}
	if len(texts) == 0 {
		texts = []string{"-"}
	}
	for _, text := range texts {
		opened, err := e.storages.Open(ctx, text)
		if err != nil {
			return nil, err
		}
		p.Places = append(p.Places, opened)
	}
	if p.report, err = openReport(e.report); err != nil {
		return nil, err
	}
	planned, err := e.openJournal(p, texts)
	if err != nil {
		return nil, err
	}
	if planned && len(p.Unlisted) == 0 {
		return p, nil
	}
	todo := p.Unlisted // what could not be listed before
	p.Unlisted = nil
	for i := range p.Places {
		if !planned {
			todo = append(todo, unlisted{Place: i})
		}
	}
	// Listing leaves much garbage behind: only the names are kept.
	defer debug.SetGCPercent(debug.SetGCPercent(gcWhileListing))
	own := e.ownFiles()
	for _, u := range todo {
		if err := p.list(ctx, u.Place, u.Key, selected, own); err != nil {
			return nil, err
		}
	}
	if !planned {
		selected.sayUnused()
	}
	// A prefix of a bucket does not exist without objects below it.
	mustMatch := len(e.include) > 0 || len(e.exclude) > 0 || slices.ContainsFunc(p.Places, func(at *places.Place) bool { return at.Prefix != "" || !at.IsMany() })
	if p.total() == 0 && mustMatch && (p.leftText() == "" || !slices.ContainsFunc(p.Places, (*places.Place).IsMany)) {
		return nil, errors.New("there are no such objects")
	}
	if e.journal != nil {
		err = e.journal.savePlan(p)
	}
	return p, err
}

// Run works on each object of a plan. word is the result of an object that is done, such as
// "verified". Failures are reported on standard error, and Run then returns an error.
func (e *Each) Run(ctx context.Context, word string, p *Plan, work func(context.Context, Item) (int64, error)) (err error) {
	finished, newcomersErr := false, error(nil)
	// If the report can't be written, the journal stays. The same command line then writes the report.
	defer func() {
		err = errors.Join(err, e.closeJournal(finished && err == nil))
		if finished && err == nil && p.LeftContent() > 0 {
			err = errors.New(p.LeftAdvice())
		}
		err = errors.Join(err, newcomersErr)
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
		console.Say(slog.LevelInfo, "there is nothing in "+p.names())
	}
	m.start()
	defer m.shown.Close()
	if err := p.reportRest(m, report); err != nil {
		return err
	}
	err = InOrder(ctx, e.jobs, stop.until(todo), func(i Item) Outcome {
		if stop.isAsked() || ctx.Err() != nil {
			return Outcome{} // it was not begun
		}
		o := e.workOn(ctx, m, i, stop, work)
		stop.count(o.err)
		if e.journal != nil && o.Result != ResultFailed {
			e.journal.Add(i.Index, o)
		}
		return o
	}, func(o Outcome) error {
		if o.Result == "" || ctx.Err() != nil && o.Result == ResultFailed {
			return ctx.Err() // it failed because of the interruption
		}
		m.add(o)
		if o.Result == resultPlanned {
			m.shown.Say(slog.LevelInfo, fmt.Sprintf("%s %s: %s", resultPlanned, console.Printable(o.Name), console.Count(o.Bytes, "byte")), "object", o.Name, "result", o.Result, "bytes", o.Bytes)
		}
		if e.journal != nil {
			if err := e.journal.err(); err != nil {
				cancel()
				return err
			}
		}
		return report.write(o)
	})
	m.shown.Close()
	m.saySkipped()
	finished, err = e.conclude(p, m, stop, err)
	if finished && e.resumed {
		newcomersErr = e.newcomers(ctx, p)
	}
	return err
}

// reportRest reports what is not worked on: folders that could not be listed, which failed, and what
// is left out.
func (p *Plan) reportRest(m *monitor, report *reportFile) error {
	for _, u := range p.Unlisted {
		o := Outcome{Name: p.TitleOf(u), Result: ResultFailed, Reason: u.Reason}
		m.add(o)
		if err := report.write(o); err != nil {
			return err
		}
	}
	p.sayLeft(m.shown.Say)
	if report == nil {
		return nil
	}
	for i := range p.LeftOut() {
		if err := report.write(Outcome{Name: i.Title(), Result: resultLeftOut, Reason: places.LeftKinds[i.Left].Reason}); err != nil {
			return err
		}
	}
	return nil
}

// conclude reports the sum of all outcomes. If objects failed or were not begun, it returns that as
// an error instead. It reports finished if everything is done. The given err ended the work early.
func (e *Each) conclude(p *Plan, m *monitor, stop *stopping, err error) (finished bool, _ error) {
	sum := m.sum()
	text := sum.text(m.word) + e.cost() + m.took() + p.leftText()
	isPartial := sum.objects() < p.total()
	switch {
	case err == nil && stop.reason() != "" && isPartial:
		err = fmt.Errorf("%s, of %d; stopped after %s; %s", text, p.total(), stop.reason(), e.advice())
	case err == nil && stop.isAsked() && isPartial:
		err = fmt.Errorf("interrupted: %s, of %d; %s", text, p.total(), e.advice())
	case err == nil && sum.failed > 0:
		err = errors.New(text + e.failedAdvice())
	default:
		console.Say(slog.LevelInfo, text, m.fields(e.calls())...)
	}
	if err != nil {
		return false, console.WithFields(err, m.fields(e.calls()))
	}
	return true, nil
}

// workOn works on one object. It tries again after a failure that may pass.
func (e *Each) workOn(ctx context.Context, m *monitor, i Item, stop *stopping, work func(context.Context, Item) (int64, error)) Outcome {
	defer m.begin(&i)()
	o := Outcome{Name: i.Title(), Result: m.word}
	ctx, end := telemetry.TraceObject(ctx, i.Index, o.Name, i.Size)
	n, err := retry(ctx, i, stop, work)
	if isGone(ctx, i, err) {
		err = Skipped("it was deleted after it was listed")
	}
	o.err = err
	var reason Skipped
	switch {
	case errors.As(err, &reason):
		o.Result, o.Reason = resultSkipped, string(reason)
	case err != nil:
		o.Result, o.Reason = ResultFailed, console.Explain(err)
	default:
		o.Bytes = n
	}
	if o.Result != ResultFailed {
		err = nil
	}
	end(o.Result, err)
	return o
}

// isGone reports whether the work on an object failed because the object was deleted. It looks into
// the listing, since an object that is still listed and can't be found has failed.
func isGone(ctx context.Context, i Item, err error) bool {
	missing := errors.Is(err, fs.ErrNotExist) || errors.Is(err, pikokms.ErrChanged) || gcerrors.Code(err) == gcerrors.NotFound
	if err == nil || !missing || !i.place.IsMany() {
		return false
	}
	for l, err := range i.place.List(ctx, i.Key) {
		switch {
		case err != nil || l.Key == i.Key:
			return false
		case l.Left == 0:
			return true // keys are listed in their order
		}
	}
	return true
}

func (e *Each) selection() (w *selection, err error) {
	w = new(selection)
	if w.included, err = ParseGlobs(e.include); err != nil {
		return nil, console.Usage(fmt.Errorf("--include: %w", err))
	}
	if w.excluded, err = ParseGlobs(e.exclude); err != nil {
		return nil, console.Usage(fmt.Errorf("--exclude: %w", err))
	}
	return w, nil
}
