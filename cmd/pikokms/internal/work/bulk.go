package work

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/look"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
)

// Bulk works on the objects of places, for encrypt, decrypt and rewrap.
type Bulk struct {
	Each
	InPlace bool
	DryRun  bool
	suffix  string
	Plain   string
	places.Writing

	Malformed bool // whether an object that begins as a message, but has no whole header, counts as plaintext
}

// Add adds the flags. The rule describes in a help text what becomes of a suffix; without a rule
// there is no such flag.
func (b *Bulk) Add(command *cobra.Command, rule string) {
	flags := command.Flags()
	flags.BoolVar(&b.InPlace, "in-place", false, "put each result in the place of what it was made of")
	if rule != "" {
		flags.StringVar(&b.suffix, "suffix", "", "the `SUFFIX` that "+rule+" the names of several objects")
		console.ShowInShortHelp(flags, "suffix")
	}
	b.Each.Add(command)
	flags.BoolVar(&b.DryRun, "dry-run", false, "name each object that there is to work on, and write nothing")
	console.ShowInShortHelp(flags, "in-place", "dry-run")
	flags.StringArrayVar((*[]string)(&b.Allowed), "allow-loss", nil, "replace objects of buckets though this `KIND` of what they have can't be kept: "+strings.Join(lossKinds, ", ")+"; may be repeated")
	flags.BoolVar(&b.SoleWriter, "sole-writer", false, "nothing else writes to the bucket now: look before writing, where S3 has no conditional writes")
	_ = command.RegisterFlagCompletionFunc("allow-loss", cobra.FixedCompletions(lossKinds, cobra.ShellCompDirectiveNoFileComp))
	b.AddLong(command)
}

// IsForPlaces reports whether a command line is about places, rather than one file or stream.
func (b *Bulk) IsForPlaces(out string, arguments []string) bool {
	for _, flag := range []string{"in-place", "suffix", "dry-run", "plain"} {
		if b.given(flag) {
			return true
		}
	}
	return strings.Contains(out, "://") || b.Each.IsForPlaces(arguments)
}

// Check refuses flags that can't be used together.
func (b *Bulk) Check(out string, replace, coded bool) error {
	switch {
	case coded:
		return console.Usage(errors.New("--encode and --decode are for one file or stream"))
	case b.InPlace && out != "":
		return console.Usage(errors.New("--in-place leaves no use for -o"))
	case b.InPlace && replace:
		return console.Usage(errors.New("--in-place leaves no use for -f"))
	case b.InPlace && b.suffix != "":
		return console.Usage(errors.New("--in-place leaves no use for --suffix"))
	case !b.InPlace && (out == "" || out == "-"):
		return console.Usage(errors.New("name a file, a folder or a bucket with -o, or say --in-place"))
	case b.DryRun && b.resume != "":
		return console.Usage(errors.New("--dry-run leaves no use for --resume"))
	case strings.Contains(b.suffix, "/"):
		return console.Usage(fmt.Errorf("--suffix %q has a slash", b.suffix))
	}
	for _, kind := range b.Allowed {
		if !slices.Contains(lossKinds, kind) {
			return console.Usage(fmt.Errorf("--allow-loss %q; known are %s", kind, strings.Join(lossKinds, ", ")))
		}
	}
	return nil
}

// Job is what is done to each object.
type Job struct {
	Done   string // the word for an object that was worked on: "encrypted"
	Rename func(key string) (string, error)
	// Judge looks at an object's first bytes before a key service is asked, and returns why the object
	// is left alone.
	Judge func(ctx context.Context, i Item, s *places.Source) error
	// Convert returns what is stored for an object.
	Convert func(ctx context.Context, s *places.Source) (io.Reader, error)
	// Made reports whether a target may be what Convert returned for a source. It is called if the
	// target was stored since the job began, and an earlier try or run may have worked on the source.
	Made func(ctx context.Context, from, to *look.Object) (bool, error)
}

// Run does a job on each object of IN.
func (b *Bulk) Run(ctx context.Context, out string, replace bool, arguments []string, j Job) error {
	p, err := b.Open(ctx, arguments)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := checkSeveral(p, b.InPlace); err != nil {
		return errors.Join(err, b.closeJournal(false))
	}
	b.Writing.Jobs = b.Each.jobs
	t := &target{several: len(p.Places) > 1, replace: replace, rename: j.Rename, Writing: b.Writing, dryRun: b.DryRun, placed: newPlaced(p)}
	if b.resumed {
		t.placed.since = b.journal.planned.Begun
	}
	if err := b.openTarget(ctx, out, p, t); err != nil {
		return errors.Join(err, b.closeJournal(false))
	}
	if t.place != nil {
		defer t.place.Close()
		t.place.SetWriting(b.Writing)
	}
	for _, place := range p.Places {
		place.SetWriting(b.Writing)
	}
	if b.DryRun {
		err = b.Each.Run(ctx, resultPlanned, p, func(ctx context.Context, i Item) (int64, error) { return b.planOne(ctx, t, j, i) })
	} else {
		err = b.Each.Run(ctx, j.Done, p, func(ctx context.Context, i Item) (int64, error) { return t.workOn(ctx, j, i) })
	}
	t.notKept.say(b.DryRun)
	return err
}

// checkSeveral checks the places of several INs. Results must have different names.
func checkSeveral(p *Plan, inPlace bool) error {
	if len(p.Places) < 2 {
		return nil
	}
	byName := make(map[string]*places.Place)
	for _, place := range p.Places {
		if place.IsStandardInput() {
			return console.Usage(errors.New("standard input cannot be one of several INs"))
		}
		name := places.Absolute(place.Name)
		if !inPlace {
			name = place.Base()
		}
		if other := byName[name]; other != nil {
			return console.Usage(fmt.Errorf("%s and %s would have one name; do them one after the other", console.Printable(other.Name), console.Printable(place.Name)))
		}
		byName[name] = place
	}
	return nil
}

// openTarget opens the place of t, unless the work is in place.
func (b *Bulk) openTarget(ctx context.Context, out string, p *Plan, t *target) (err error) {
	if b.InPlace {
		if p.Places[0].IsStandardInput() {
			return console.Usage(errors.New("--in-place needs a file, a folder or a bucket"))
		}
		return nil
	}
	if b.DryRun && !strings.Contains(out, "://") {
		if _, err := os.Stat(out); err != nil { // opening a folder would create it
			t.replace = true
		}
	}
	if !b.DryRun || !t.replace {
		t.place, err = openTarget(ctx, b.storages, out, p.needsSeveral())
	}
	return err
}

// workOn stores what j makes of an object.
func (t *target) workOn(ctx context.Context, j Job, i Item) (n int64, err error) {
	s, err := i.Read(ctx)
	if err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, s.Close())
	}()
	if err := j.Judge(ctx, i, s); err != nil {
		return 0, err
	}
	to, err := t.placeOf(i)
	if err != nil {
		return 0, err
	}
	if err := t.recognise(ctx, j, i, to); err != nil {
		return 0, err
	}
	if err := t.checkKept(ctx, s); err != nil {
		return 0, err
	}
	content, err := j.Convert(ctx, s)
	if err != nil {
		return 0, err
	}
	err = t.put(ctx, to, i, s, content)
	return s.Counted.N.Load(), err
}

// planOne returns an error if workOn would fail or skip an object, as far as that is known without
// encrypting or decrypting it. It returns the number of bytes to read.
func (b *Bulk) planOne(ctx context.Context, t *target, j Job, i Item) (n int64, err error) {
	s, err := i.Read(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := j.Judge(ctx, i, s); err != nil {
		return 0, err
	}
	to, err := t.placeOf(i)
	if err != nil {
		return 0, err
	}
	if t.place == nil && !b.InPlace && i.place.IsMany() {
		if _, err := j.Rename(i.Key); err != nil {
			return 0, err
		}
	}
	if b.InPlace {
		if err := t.checkKept(ctx, s); err != nil {
			return 0, err
		}
	}
	return max(s.Length, 0), t.checkFree(ctx, to, i)
}

// AddSuffix is the Job.Rename of encrypt.
func (b *Bulk) AddSuffix(key string) (string, error) { return key + b.suffix, nil }

// CutSuffix is the Job.Rename of decrypt.
func (b *Bulk) CutSuffix(key string) (string, error) {
	cut, ok := strings.CutSuffix(key, b.suffix)
	if !ok || cut == "" && key != "" {
		return "", fmt.Errorf("its name is not one that ends in %q", b.suffix)
	}
	return cut, nil
}
