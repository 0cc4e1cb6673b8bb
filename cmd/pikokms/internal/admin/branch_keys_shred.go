package admin

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/files"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
	"piko.sh/pikokms/provider/branchkey"
)

// openOne opens the table, and returns the ID of the one branch key that the command line names.
func (s *keyStore) openOne(ctx context.Context, arguments []string) (store *branchkey.Store, c branchkey.Config, id string, err error) {
	if c, err = s.parse(); err != nil {
		return nil, c, "", err
	}
	ids := idsOf(c, arguments)
	if len(ids) == 0 || ids[0] == "" {
		return nil, c, "", console.Usage(errors.New("name the branch key"))
	}
	store, err = branchkey.NewStore(ctx, c)
	return store, c, ids[0], err
}

func branchKeysDisable() *cobra.Command {
	var s keyStore
	command := &cobra.Command{
		Use:   "disable [-k KEY] [ID]",
		Short: "Disable a branch key, which enable takes back",
		Long: `Disable makes a branch key unusable, for pikokms and for AWS's libraries: its objects
can't be read, and none is encrypted under it. Nothing is lost: enable takes it back.
It is the first step to destroy it, and starts the waiting period.

A process that has cached the branch key uses it until its TTL has passed, an hour by
default, and data keys of a data-key cache up to 5 minutes longer.

The keys are set aside in the table, in their places, so that nobody can make
another branch key of the same ID. KMS is not asked, and no permission of KMS is
needed. If it is interrupted, the same command line goes on. Without an ID it is
about that of the KEY.`,
		Example: `  pikokms branch-keys disable -k 'branchkey://keys?key=ARN' tenant-42`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, arguments []string) error {
			id, d, err := s.change(command.Context(), arguments, (*branchkey.Store).Disable)
			if err != nil {
				return err
			}
			console.Say(slog.LevelInfo, fmt.Sprintf("branch key %s is disabled since %s, %s; by default it can be destroyed from %s, and until it is, 'branch-keys enable' takes it back",
				console.Printable(id), timeText(d.Disabled), console.Count(int64(len(d.Items)), "item"), timeText(d.Disabled.Add(branchkey.DefaultWait))))
			return nil
		},
	}
	s.add(command)
	return command
}

// change disables or enables the branch key that the arguments name, and returns its ID and its new
// state.
func (s *keyStore) change(ctx context.Context, arguments []string, apply func(*branchkey.Store, context.Context, string) (*branchkey.Description, error)) (string, *branchkey.Description, error) {
	store, _, id, err := s.openOne(ctx, arguments)
	if err != nil {
		return "", nil, err
	}
	defer store.Close()
	d, err := apply(store, ctx, id)
	if err != nil {
		return "", nil, namingBranchKey(id, err)
	}
	return id, d, nil
}

func branchKeysEnable() *cobra.Command {
	var s keyStore
	command := &cobra.Command{
		Use:   "enable [-k KEY] [ID]",
		Short: "Make a disabled branch key usable again",
		Long: `Enable takes back what disable did, as long as the branch key is not destroyed, and
ends its waiting period. If it is interrupted, the same command line goes on. KMS is
not asked. Without an ID it is about that of the KEY.`,
		Example: `  pikokms branch-keys enable -k 'branchkey://keys?key=ARN' tenant-42`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, arguments []string) error {
			id, d, err := s.change(command.Context(), arguments, (*branchkey.Store).Enable)
			if err != nil {
				return err
			}
			console.Say(slog.LevelInfo, fmt.Sprintf("branch key %s is enabled, %s; 'branch-keys check' asks KMS whether they are genuine",
				console.Printable(id), console.Count(int64(len(d.Items)), "item")))
			return nil
		},
	}
	s.add(command)
	return command
}

// destruction is a command line of destroy.
type destruction struct {
	keyStore
	confirm string
	wait    time.Duration
	out     string
	replace bool
	prove   []string
	each    work.Each
}

func branchKeysDestroy() *cobra.Command {
	var d destruction
	command := &cobra.Command{
		Use:   "destroy [-k KEY] [--confirm ID] [--wait DURATION] [--prove PLACE]... [-o FILE] [ID]",
		Short: "Destroy a disabled branch key for good",
		Long: `Destroy destroys a branch key: all its versions, the active one and the beacon key.
What is encrypted under it alone can't be read any more, by anyone. There is no way
back: on a terminal the branch key's ID must be typed, and elsewhere be repeated with
--confirm.

It must have been disabled for a week, or for --wait, of a day at least, by the clock
of DynamoDB (for a file, by this computer's).

In the place of each key the table keeps a tombstone, with times, the version's UUID
and the ARN of its KMS key. Whoever reads is told when the branch key was destroyed,
and no branch key of its ID can be made. KMS is not asked. If it is interrupted, the
same command line goes on; so it destroys what has come back.

Then it writes a certificate on standard output, in JSON: the table, what was
destroyed and when, who asked (as AWS knows them) and this program's version. With
--prove it lists the objects of a PLACE whose headers name a destroyed version, and
which other keys still open some of them. It needs no key for that. Only the current
versions of objects are looked at. The same command line writes the certificate again.

Backups of the table keep the keys: point-in-time recovery up to 35 days, others for
as long as they are kept. Together with the KMS key they open the objects. To end
that, delete the backups, or the KMS key if it wraps no other branch keys.`,
		Example: `  pikokms branch-keys destroy -k 'branchkey://keys?key=ARN' --confirm tenant-42 tenant-42
  pikokms branch-keys destroy -k 'branchkey://keys?key=ARN' --confirm tenant-42 \
      --prove 's3://bucket/?region=eu-west-1' -o certificate.json tenant-42`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, arguments []string) error {
			return d.run(command.Context(), arguments)
		},
	}
	d.add(command)
	flags := command.Flags()
	flags.StringVar(&d.confirm, "confirm", "", "the branch key's `ID` once more, where nobody can be asked to type it")
	flags.DurationVar(&d.wait, "wait", branchkey.DefaultWait, "how long it must have been disabled, 24h at least")
	flags.StringArrayVar(&d.prove, "prove", nil, "list the objects of a `PLACE` that can't be read any more; may be repeated")
	flags.StringVarP(&d.out, "out", "o", "", "write the certificate to a `FILE`")
	flags.BoolVarP(&d.replace, "force", "f", false, "replace the FILE; it replaces no confirmation")
	console.ShowInShortHelp(flags, "confirm", "wait", "prove", "out")
	d.each.Add(command)
	return command
}

func (d *destruction) run(ctx context.Context, arguments []string) error {
	if d.wait < branchkey.MinWait {
		return console.Usage(fmt.Errorf("--wait is %v; %v is the least", d.wait, branchkey.MinWait))
	}
	store, config, id, err := d.openOne(ctx, arguments)
	if err != nil {
		return err
	}
	defer store.Close()
	described, err := store.Describe(ctx, id)
	if err != nil {
		return namingBranchKey(id, err)
	}
	if err := d.confirmed(ctx, described); err != nil {
		return err
	}
	out, err := files.CreateOutput(ctx, d.out, d.replace)
	if err != nil {
		return err
	}
	defer out.Discard()
	var plan *work.Plan
	if len(d.prove) > 0 {
		if plan, err = d.each.Open(ctx, d.prove); err != nil {
			return fmt.Errorf("--prove: %w; nothing was destroyed", err)
		}
		defer plan.Close()
	}
	caller, err := callerOf(ctx, config)
	if err != nil {
		console.Say(slog.LevelWarn, "the certificate names no caller: "+console.Explain(err))
	}
	destroyed, err := store.Destroy(ctx, id, d.wait)
	if err != nil {
		return namingBranchKey(id, err)
	}
	console.Say(slog.LevelInfo, fmt.Sprintf("branch key %s was destroyed on %s, %s of %s", console.Printable(id), timeText(destroyed.Destroyed),
		console.Count(int64(len(destroyed.Items)), "item"), console.Count(int64(len(destroyed.Versions)), "version")))
	c := newCertificate(store, config, destroyed, caller)
	isWhole, err := c.write(ctx, out, &d.each, plan)
	if isWhole {
		failed := out.Commit(ctx)
		isWhole, err = failed == nil, cmp.Or(failed, err)
	}
	switch {
	case err == nil:
		return nil
	case isWhole:
		return fmt.Errorf("%w; the branch key is destroyed, and the certificate is written", err)
	}
	return fmt.Errorf("%w; the branch key is destroyed, and the same command line writes the certificate again", err)
}

// confirmed returns nil if the ID of the branch key was typed, or repeated by a flag.
func (d *destruction) confirmed(ctx context.Context, key *branchkey.Description) error {
	typed := d.confirm
	if typed == "" {
		if !term.IsTerminal(int(os.Stdin.Fd())) || !term.IsTerminal(int(os.Stderr.Fd())) {
			return console.Usage(errors.New("to destroy a branch key is final; repeat its ID with --confirm"))
		}
		fmt.Fprintf(os.Stderr, "Branch key %s, of %s, is %s.\nWhat is encrypted under it can't be read any more once it is destroyed.\nType its ID to destroy it: ",
			console.Printable(key.ID), console.Count(int64(len(key.Versions)), "version"), stateText(key))
		var err error
		if typed, err = readLine(ctx); err != nil {
			return fmt.Errorf("no ID was typed, and nothing was destroyed: %w", err)
		}
	}
	if typed != key.ID {
		return console.Usage(fmt.Errorf("%q is not the ID of the branch key, %q; nothing was destroyed", typed, key.ID))
	}
	return nil
}

// readLine reads a line of standard input, until the context ends.
func readLine(ctx context.Context) (string, error) {
	type result struct {
		line string
		err  error
	}
	read := make(chan result, 1)
	go func() { // at the end of the context it waits for a line until the process ends
		line, err := bufio.NewReader(os.Stdin).ReadString('\n')
		read <- result{strings.TrimRight(line, "\r\n"), err}
	}()
	select {
	case r := <-read:
		return r.line, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// stateText returns the state of a branch key, and since when it has it.
func stateText(d *branchkey.Description) string {
	text := stateOf(d)
	switch text {
	case "disabled":
		text += " since " + timeText(d.Disabled)
	case "destroyed":
		text += " on " + timeText(d.Destroyed)
	}
	if n := int64(len(d.Behind)); n > 0 {
		text += fmt.Sprintf(", but for %s", console.Count(n, "item"))
	}
	return text
}

func timeText(t time.Time) string { return t.UTC().Format(time.RFC3339) }
