package work

import (
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/time/rate"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/files"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/service"
)

// Manual explains how long work is planned, slowed down and resumed. The help of every command that
// works on several objects with keys has it, and so has the man page.
const Manual = `
Long work:
  The objects are listed before the work begins. Commands that write show with
  --dry-run what there is to do: each object is looked at and named, none is changed.
  --resume FILE keeps in FILE which objects are done. After an interruption, a
  crash or a kill, the same command line goes on: no object is done twice, none is
  left out. It works on the objects that were listed at first, tries those that
  failed again, and removes FILE when all are done. What was deleted meanwhile is
  done; what has come since is counted at the end, with exit status 1, and the same
  command line then takes it in. Another job is refused.
  SIGINT and SIGTERM let objects that are being worked on be finished, and a
  second one stops at once; either way no object is left half-written.
  What fails for a while (throttling, faults of a service, lost connections, a
  storage that does not answer within --storage-timeout) is tried up to 5 times, at
  growing intervals. Damaged objects are named, and the rest goes on, whatever
  their number. After 20 such failures in a row no more objects are begun, and
  after 5 that are denied if none was done before: credentials may have expired,
  or a permission may be missing.
  Each object takes a call of AWS KMS, and to rewrap takes two. --kms-rate bounds
  the calls in a second, over all jobs; KMS's own quota is shared by all that use
  keys in the account and Region. --cache-data-keys uses a data key for up to 5
  minutes, 1,048,576 objects and 1 TiB: it takes a few calls for all objects that
  one command encrypted. But who gets such a data key opens all those objects, and
  AWS CloudTrail has one entry for them. It does nothing for local keys, signed
  messages, and encryption under several keys.
  --report FILE has a line of JSON for each object: name, result, bytes, reason. If
  the work was resumed, it also has what earlier runs did. What is left out has one,
  too.
  Key files, the configuration and the FILEs of --resume and --report are left out
  where they are in a folder that is worked on.
`

// longWork plans, slows down and resumes work that takes long.
type longWork struct {
	report    string
	resume    string
	kmsRate   float64
	cacheKeys bool

	command *cobra.Command
	keys    []*keys.Key // all KEYs of the command
	about   []string    // each KEY after its flag
	limiter *rate.Limiter
	journal *Journal
	resumed bool // the plan was read from the journal
	GoesOn  bool // without a journal, the same command line goes on where it was interrupted
}

// AddLong adds the flags.
func (l *longWork) AddLong(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVar(&l.resume, "resume", "", "keep in this `FILE` which objects are done, and go on where it says")
	flags.Float64Var(&l.kmsRate, "kms-rate", 0, "at most so many `CALLS` of key services in a second; 0 is no bound")
	flags.BoolVar(&l.cacheKeys, "cache-data-keys", false, "use a data key for many objects: fewer calls, but it opens them all")
	flags.StringVar(&l.report, "report", "", "write a line of JSON for each object to this `FILE`")
	console.ShowInShortHelp(flags, "resume", "report")
	console.AddTopics(command, "long-work")
}

// Use prepares the KEYs of a flag for work on many objects.
func (l *longWork) Use(flag string, keys []*keys.Key) error {
	if l.kmsRate < 0 || math.IsNaN(l.kmsRate) || math.IsInf(l.kmsRate, 0) {
		return console.Usage(fmt.Errorf("--kms-rate is %v; give the calls in a second, or 0 for no bound", l.kmsRate))
	}
	if l.limiter == nil && l.kmsRate > 0 {
		l.limiter = rate.NewLimiter(rate.Limit(l.kmsRate), 1)
	}
	for _, k := range keys {
		l.keys, l.about = append(l.keys, k), append(l.about, flag+" "+k.Identity())
		if !k.IsRemote() {
			continue
		}
		k.Limiter, k.Patient = l.limiter, true
		if l.cacheKeys {
			k.CacheDataKeys(service.CacheLimits{})
		}
	}
	return nil
}

// howFlags are the flags that affect how the work is done, but not its result. Those of keys and of
// OUT are part of the job in another form.
var howFlags = []string{"jobs", "resume", "report", "kms-rate", "kms-timeout", "storage-timeout", "cache-data-keys", "key", "to", "out", "help"}

// job describes the command line, for the journal.
func (l *longWork) job(p *Plan, texts []string) JournaledJob {
	verb := l.command.Name()
	what := append([]string{verb}, l.about...)
	l.command.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Changed && !slices.Contains(howFlags, f.Name) {
			what = append(what, "--"+f.Name+" "+f.Value.String())
		}
	})
	about := []string{verb}
	for i, text := range texts {
		what, about = append(what, "from "+places.Absolute(text)), append(about, p.Places[i].Name)
	}
	if out := l.command.Flags().Lookup("out"); out != nil && out.Changed {
		what = append(what, "to "+places.Absolute(out.Value.String()))
	}
	return NewJournaledJob(strings.Join(about, " "), what)
}

// openJournal opens the journal if there is to be one, and loads its plan if it has one.
func (l *longWork) openJournal(p *Plan, texts []string) (planned bool, err error) {
	if l.resume == "" {
		return false, nil
	}
	if slices.ContainsFunc(p.Places, (*places.Place).IsStandardInput) {
		return false, console.Usage(errors.New("--resume is no use for standard input, which is read once"))
	}
	if _, err := files.ResolveOutput(l.resume, true); err != nil {
		return false, fmt.Errorf("--resume: %w", err)
	}
	if l.journal, err = OpenJournal(l.resume, l.job(p, texts)); err != nil {
		return false, err
	}
	if l.resumed, err = l.journal.LoadPlan(p); err == nil && l.resumed {
		console.Say(slog.LevelInfo, fmt.Sprintf("going on with the %s that were listed on %s", console.Count(p.Objects, "object"), l.listed()))
	}
	return l.resumed, err
}

// listed returns the time at which the objects of a resumed job were listed.
func (l *longWork) listed() string {
	return l.journal.planned.Begun.Local().Format(time.DateTime)
}

func (l *longWork) closeJournal(finished bool) error {
	if l.journal == nil {
		return nil
	}
	j := l.journal
	l.journal = nil
	return j.Close(finished)
}

// restore reports the outcomes of earlier runs, which are in the journal, and returns the objects
// that are left.
func (l *longWork) restore(p *Plan, m *monitor, report *reportFile) (iter.Seq[Item], error) {
	if l.journal == nil || !l.journal.again {
		return p.All(), nil
	}
	done := make([]uint64, p.Objects/64+1) // a bit for each object
	isDone := func(index int64) bool { return done[index/64]&(1<<(index%64)) != 0 }
	next, stop := iter.Pull(p.All())
	defer stop()
	i, ok := Item{Index: -1}, true
	err := l.journal.Outcomes(func(o JournaledOutcome) error {
		if o.Result == ResultFailed {
			return nil // it is tried again
		}
		for ok && i.Index < o.Index {
			i, ok = next()
		}
		if !ok || i.Index != o.Index {
			return errDamaged(errPlan.Error())
		}
		done[o.Index/64] |= 1 << (o.Index % 64)
		o.Name = i.Title()
		m.addEarlier(o.Outcome, i)
		return report.write(o.Outcome)
	})
	if err != nil {
		return nil, err
	}
	begunAt := l.journal.planned.Begun
	return func(yield func(Item) bool) {
		for i := range p.All() {
			if isDone(i.Index) {
				continue
			}
			i.Since = begunAt
			if !yield(i) {
				return
			}
		}
	}, nil
}

// kmsRequestPrice is what a request of AWS KMS about a symmetric key costs in US dollars: $0.03 for
// 10,000 (AWS Key Management Service Pricing, https://aws.amazon.com/kms/pricing/). It leaves out
// the free tier, and asymmetric keys have other prices.
const kmsRequestPrice = 0.03 / 10_000

// calls returns how often key services were asked for data keys in this run.
func (l *longWork) calls() (n int64) {
	for _, k := range l.keys {
		n += k.Calls.Load()
	}
	return n
}

// cost returns how often key services were asked for data keys in this run, and what AWS charges
// for that.
func (l *longWork) cost() string {
	calls, ofAWS := l.calls(), int64(0)
	for _, k := range l.keys {
		if k.IsAWS() {
			ofAWS += k.Calls.Load()
		}
	}
	if calls == 0 {
		return ""
	}
	text := ", " + console.Count(calls, "KMS call")
	if ofAWS > 0 {
		text += fmt.Sprintf(" ($%s)", strings.TrimRight(fmt.Sprintf("%.6f", float64(ofAWS)*kmsRequestPrice), "0"))
	}
	return text
}

// advice returns how to resume interrupted work.
func (l *longWork) advice() string {
	if l.journal != nil || l.GoesOn {
		return "the same command line goes on"
	}
	return "with --resume FILE, a command line can go on where it was interrupted"
}

// failedAdvice returns how to try failed objects again.
func (l *longWork) failedAdvice() string {
	if l.journal != nil {
		return "; the same command line tries those that failed again"
	}
	return ""
}
