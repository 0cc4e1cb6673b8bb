package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"piko.sh/pikokms"
	"piko.sh/pikokms/message"
)

// bulk is how encrypt, decrypt and rewrap work on places.
type bulk struct {
	each
	inPlace bool
	dryRun  bool
	suffix  string
	plain   string
	writing

	malformed bool // what begins as a message and is none is plaintext
}

// add adds the flags. The rule says what becomes of a suffix, if there is one.
func (b *bulk) add(command *cobra.Command, rule string) {
	flags := command.Flags()
	flags.BoolVar(&b.inPlace, "in-place", false, "put each result in the place of what it was made of")
	if rule != "" {
		flags.StringVar(&b.suffix, "suffix", "", "the `SUFFIX` that "+rule+" the names of several objects")
	}
	b.each.add(command)
	flags.BoolVar(&b.dryRun, "dry-run", false, "name each object that there is to work on, and write nothing")
	flags.StringArrayVar((*[]string)(&b.allowed), "allow-loss", nil, "replace objects of buckets though this `KIND` of what they have can't be kept: "+strings.Join(lossKinds, ", ")+"; may be repeated")
	flags.BoolVar(&b.soleWriter, "sole-writer", false, "nothing else writes to the bucket now: look before writing, where S3 has no conditional writes")
	_ = command.RegisterFlagCompletionFunc("allow-loss", cobra.FixedCompletions(lossKinds, cobra.ShellCompDirectiveNoFileComp))
	b.addLong(command)
}

// isWanted tells whether a command line is about places, rather than one file or stream.
func (b *bulk) isWanted(out string, arguments []string) bool {
	for _, flag := range []string{"in-place", "suffix", "dry-run", "plain"} {
		if b.given(flag) {
			return true
		}
	}
	return strings.Contains(out, "://") || b.each.isWanted(arguments)
}

// check checks the flags that are no use together.
func (b *bulk) check(out string, replace, coded bool) error {
	switch {
	case coded:
		return usage(errors.New("--encode and --decode are for one file or stream"))
	case b.inPlace && out != "":
		return usage(errors.New("--in-place leaves no use for -o"))
	case b.inPlace && replace:
		return usage(errors.New("--in-place leaves no use for -f"))
	case b.inPlace && b.suffix != "":
		return usage(errors.New("--in-place leaves no use for --suffix"))
	case !b.inPlace && (out == "" || out == "-"):
		return usage(errors.New("name a file, a folder or a bucket with -o, or say --in-place"))
	case b.dryRun && b.resume != "":
		return usage(errors.New("--dry-run leaves no use for --resume"))
	case strings.Contains(b.suffix, "/"):
		return usage(fmt.Errorf("--suffix %q has a slash", b.suffix))
	}
	for _, kind := range b.allowed {
		if !slices.Contains(lossKinds, kind) {
			return usage(fmt.Errorf("--allow-loss %q; known are %s", kind, strings.Join(lossKinds, ", ")))
		}
	}
	return nil
}

// job is what is done to each object.
type job struct {
	done   string // the word for an object that was worked on: "encrypted"
	rename func(key string) (string, error)
	// judge looks at an object's first bytes and returns why it is left alone, before a key service
	// is asked.
	judge func(ctx context.Context, i item, s *source) error
	// convert returns what is stored for an object.
	convert func(ctx context.Context, s *source) (io.Reader, error)
	// made tells whether a target may be what convert returned for a source. It is asked about
	// targets that have come since the job began, when work on the object may have begun before.
	made func(ctx context.Context, from, to *examined) (bool, error)
}

// run does a job on each object of IN.
func (b *bulk) run(ctx context.Context, out string, replace bool, arguments []string, j job) error {
	p, err := b.open(ctx, arguments)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := checkSeveral(p, b.inPlace); err != nil {
		return errors.Join(err, b.closeJournal(false))
	}
	b.writing.jobs = b.each.jobs
	t := &target{several: len(p.places) > 1, replace: replace, rename: j.rename, writing: b.writing, dryRun: b.dryRun, placed: newPlaced(p)}
	if b.resumed {
		t.placed.since = b.journal.planned.Begun
	}
	if err := b.openTarget(ctx, out, p, t); err != nil {
		return errors.Join(err, b.closeJournal(false))
	}
	if t.place != nil {
		defer t.place.Close()
		t.place.setWriting(b.writing)
	}
	for _, place := range p.places {
		place.setWriting(b.writing)
	}
	if b.dryRun {
		err = b.each.run(ctx, resultPlanned, p, func(ctx context.Context, i item) (int64, error) { return b.planOne(ctx, t, j, i) })
	} else {
		err = b.each.run(ctx, j.done, p, func(ctx context.Context, i item) (int64, error) { return t.workOn(ctx, j, i) })
	}
	t.lost.say(b.dryRun)
	return err
}

// checkSeveral checks the places of several INs. Results must have different names.
func checkSeveral(p *plan, inPlace bool) error {
	if len(p.places) < 2 {
		return nil
	}
	first := make(map[string]*place)
	for _, place := range p.places {
		if place.isStandardInput() {
			return usage(errors.New("standard input cannot be one of several INs"))
		}
		name := absolute(place.name)
		if !inPlace {
			name = place.base()
		}
		if other := first[name]; other != nil {
			return usage(fmt.Errorf("%s and %s would have one name; do them one after the other", printable(other.name), printable(place.name)))
		}
		first[name] = place
	}
	return nil
}

// openTarget opens the place of t, if the results do not go where they come from.
func (b *bulk) openTarget(ctx context.Context, out string, p *plan, t *target) (err error) {
	if b.inPlace {
		if p.places[0].isStandardInput() {
			return usage(errors.New("--in-place needs a file, a folder or a bucket"))
		}
		return nil
	}
	if b.dryRun && !strings.Contains(out, "://") {
		if _, err := os.Stat(out); err != nil { // opening a folder would make it
			t.replace = true
		}
	}
	if !b.dryRun || !t.replace {
		t.place, err = openTarget(ctx, out, p.isMany())
	}
	return err
}

// workOn stores what j makes of an object.
func (t *target) workOn(ctx context.Context, j job, i item) (n int64, err error) {
	s, err := i.read(ctx)
	if err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, s.Close())
	}()
	if err := j.judge(ctx, i, s); err != nil {
		return 0, err
	}
	to, err := t.of(i)
	if err != nil {
		return 0, err
	}
	if err := t.recognise(ctx, j, i, to); err != nil {
		return 0, err
	}
	if err := t.checkKept(ctx, s); err != nil {
		return 0, err
	}
	content, err := j.convert(ctx, s)
	if err != nil {
		return 0, err
	}
	err = t.put(ctx, to, i, s, content)
	return s.counted.n.Load(), err
}

// planOne tells whether workOn would have something to do, as far as can be told without
// decrypting or encrypting the object. It returns the number of bytes to be read.
func (b *bulk) planOne(ctx context.Context, t *target, j job, i item) (n int64, err error) {
	s, err := i.read(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := j.judge(ctx, i, s); err != nil {
		return 0, err
	}
	to, err := t.of(i)
	if err != nil {
		return 0, err
	}
	if t.place == nil && !b.inPlace && i.place.isMany() {
		if _, err := j.rename(i.key); err != nil {
			return 0, err
		}
	}
	if b.inPlace {
		if err := t.checkKept(ctx, s); err != nil {
			return 0, err
		}
	}
	return max(s.size, 0), t.checkFree(ctx, to, i)
}

// addSuffix is the rule of encrypt.
func (b *bulk) addSuffix(key string) (string, error) { return key + b.suffix, nil }

// cutSuffix is the rule of decrypt.
func (b *bulk) cutSuffix(key string) (string, error) {
	cut, ok := strings.CutSuffix(key, b.suffix)
	if !ok || cut == "" && key != "" {
		return "", fmt.Errorf("its name is not one that ends in %q", b.suffix)
	}
	return cut, nil
}

// refuseEncrypted is the judge of encrypt: nothing is encrypted twice.
func refuseEncrypted(ctx context.Context, s *source, malformed bool) error {
	r, err := plaintext(ctx, s.Reader, malformed)
	switch {
	case errors.Is(err, errAlready):
		return skipped(errAlready.Error())
	case err == nil:
		s.Reader = r
	}
	return err
}

// encryptEach encrypts each object of IN.
func encryptEach(ctx context.Context, b *bulk, o *options, arguments []string, encrypter message.Encrypter, transformers []string, pairs map[string]string) error {
	if err := b.check(o.out, o.replace, o.encode || o.decode); err != nil {
		return err
	}
	ks, err := o.check(true)
	if err != nil {
		return err
	}
	defer closeAll(ks)
	if err := b.use("-k", ks); err != nil {
		return err
	}
	b.goesOn = b.inPlace
	registry, err := o.registry(true, ks, encrypter)
	if err != nil {
		return err
	}
	chain, err := registry.NewChain(transformers...)
	if err != nil {
		return err
	}
	open := openAll
	if b.dryRun {
		open = openHere
	}
	if err := open(ctx, ks); err != nil {
		return err
	}
	transform := func(ctx context.Context, source io.Reader) (io.Reader, error) {
		return chain.Transform(ctx, source, pairs)
	}
	sample := sampleOf(transform)
	return b.run(ctx, o.out, o.replace, arguments, job{
		done:    "encrypted",
		rename:  b.addSuffix,
		judge:   func(ctx context.Context, _ item, s *source) error { return refuseEncrypted(ctx, s, b.malformed) },
		convert: func(ctx context.Context, s *source) (io.Reader, error) { return transform(ctx, s) },
		made: func(ctx context.Context, from, to *examined) (bool, error) {
			h, err := sample(ctx)
			if err != nil || !to.isUnder(h) {
				return false, err
			}
			size, known := to.plaintextSize()
			return (!known || size == from.size) && to.hasPairs(h.EncryptionContext), nil
		},
	})
}

// decryptEach decrypts each object of IN.
func decryptEach(ctx context.Context, b *bulk, o *options, arguments []string) error {
	if err := b.check(o.out, o.replace, o.encode || o.decode); err != nil {
		return err
	}
	skipPlain, err := parsePlain(b.plain)
	if err != nil {
		return err
	}
	r, err := o.reading()
	if err != nil {
		return err
	}
	defer closeAll(r.keys)
	if err := b.use("-k", r.keys); err != nil {
		return err
	}
	if err := openAny(ctx, r.keys); err != nil {
		return err
	}
	return b.run(ctx, o.out, o.replace, arguments, job{
		done:   "decrypted",
		rename: b.cutSuffix,
		judge: func(_ context.Context, i item, s *source) error {
			err := refusePlain(s, skipPlain)
			// An object that was listed as encrypted had another size than its plaintext. A file
			// keeps its time.
			if b.inPlace && errors.Is(err, pikokms.ErrPlaintext) && !i.since.IsZero() && (s.file != nil || isSince(s.modTime, i)) && s.size != i.size {
				return before
			}
			return err
		},
		convert: func(ctx context.Context, s *source) (io.Reader, error) {
			return r.registry.Reverse(ctx, s, r.pairs)
		},
		made: func(_ context.Context, from, to *examined) (bool, error) {
			size, known := from.plaintextSize()
			return !known || size == to.size, nil
		},
	})
}
