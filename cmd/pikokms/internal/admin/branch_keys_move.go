package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/branchkey"
)

// branchKeyJob works on many branch keys, for move and check.
type branchKeyJob struct {
	keyStore
	all  bool
	jobs int

	skipsDestroyed bool // whether --all passes over destroyed branch keys
}

// add adds the flags.
func (j *branchKeyJob) add(command *cobra.Command) {
	j.keyStore.add(command)
	command.Flags().BoolVar(&j.all, "all", false, "take all branch keys of the table")
	command.Flags().IntVar(&j.jobs, "jobs", 8, "the number of branch keys that are worked on side by side")
}

// open checks the flags and opens the table. to names the KMS key to which the branch keys move;
// check leaves it empty.
func (j *branchKeyJob) open(ctx context.Context, arguments []string, to string) (*branchkey.Store, []string, error) {
	c, err := j.keyStore.parse()
	if err != nil {
		return nil, nil, err
	}
	if j.all && len(arguments) > 0 {
		return nil, nil, console.Usage(errors.New("--all leaves no use for IDs"))
	}
	ids := idsOf(c, arguments)
	if !j.all && len(ids) == 0 {
		return nil, nil, console.Usage(errors.New("name branch keys, or take all of the table with --all"))
	}
	if j.jobs < 1 {
		return nil, nil, console.Usage(fmt.Errorf("--jobs is %d; 1 is the least", j.jobs))
	}
	if c.File != "" {
		j.jobs = 1 // only one at a time can have the file open
	}
	if to == "" {
		store, err := branchkey.NewStore(ctx, c)
		return store, ids, err
	}
	if err := wrapUnder(&c, to); err != nil {
		return nil, nil, console.Usage(err)
	}
	store, err := branchkey.NewStore(ctx, c)
	if err != nil {
		return nil, nil, fmt.Errorf("--to: %w", err)
	}
	return store, ids, nil
}

// tally counts what is done.
type tally struct {
	keys, items, failed atomic.Int64
	destroyed           atomic.Int64 // of keys
	total               atomic.Int64 // of branch keys
	shown               *console.Line
}

func (n *tally) movedText() string {
	return fmt.Sprintf("moved %s of %s", console.Count(n.items.Load(), "item"), console.Count(n.keys.Load(), "branch key"))
}

func (n *tally) checkedText() string {
	return fmt.Sprintf("checked %s", console.Count(n.keys.Load()+n.failed.Load(), "branch key"))
}

// run works on the branch keys of these IDs or, with --all, on each of the table. It names failures
// on standard error and goes on with the other keys, unless a service is down or denies access.
func (j *branchKeyJob) run(ctx context.Context, store *branchkey.Store, ids []string, n *tally, do func(id string) error) error {
	if !j.all {
		return j.each(ctx, ids, n, do)
	}
	// A branch key that is made meanwhile is found in the next round.
	seen, anyDestroyed := make(map[string]bool), false
	for {
		var found []string
		for d, err := range store.List(ctx) {
			id := ""
			switch {
			case err == nil && errors.Is(d.Err, branchkey.ErrDestroyed) && j.skipsDestroyed:
				anyDestroyed = true
				continue
			case err == nil:
				id = d.ID
			case !errors.Is(err, branchkey.ErrDamaged):
				return namingBranchKey("", err)
			default:
				failed, _ := errors.AsType[*provider.EncryptionError](err)
				id = failed.KeyID
			}
			if !seen[id] {
				seen[id] = true
				found = append(found, id)
			}
		}
		if len(seen) == 0 && !anyDestroyed {
			return errors.New("the table has no branch keys")
		}
		if len(found) == 0 {
			return nil
		}
		if err := j.each(ctx, found, n, do); err != nil {
			return err
		}
	}
}

// each works on the branch keys of these IDs, several at a time.
func (j *branchKeyJob) each(ctx context.Context, ids []string, n *tally, do func(id string) error) error {
	type result struct {
		id  string
		err error
	}
	n.total.Add(int64(len(ids)))
	return work.InOrder(ctx, j.jobs, slices.Values(ids), func(id string) result {
		if ctx.Err() != nil {
			return result{id, ctx.Err()}
		}
		return result{id, do(id)}
	}, func(r result) error {
		if r.err == nil {
			n.keys.Add(1)
			return nil
		}
		err := namingBranchKey(r.id, r.err)
		for _, fatal := range []error{ctx.Err(), provider.ErrProviderUnavailable, provider.ErrAccessDenied, branchkey.ErrNoTable, provider.ErrKeyDisabled} {
			if fatal != nil && errors.Is(err, fatal) && !isOfBranchKey(err) {
				return err
			}
		}
		n.failed.Add(1)
		n.shown.Say(slog.LevelError, "failed "+console.Explain(err))
		return nil
	})
}

// isOfBranchKey reports whether an error is about the state of a branch key, not of its KMS key.
func isOfBranchKey(err error) bool {
	return errors.Is(err, branchkey.ErrDisabled) || errors.Is(err, branchkey.ErrDestroyed)
}

func branchKeysMove() *cobra.Command {
	j := branchKeyJob{skipsDestroyed: true}
	var to string
	command := &cobra.Command{
		Use:   "move [-k KEY] --to KMS-KEY {--all | [ID]...}",
		Short: "Move branch keys to another KMS key",
		Long: `Move brings branch keys, with all their versions, from the KMS key of the KEY under
another one, and then checks that each is genuine, complete and under the new key
alone. Objects stay as they are, and open meanwhile and afterwards. KMS re-encrypts
the branch keys, so that neither this process nor the network sees them.

  1. All who read and write must trust the new key: add &trusted=NEW-ARN to their
     KEYs, and permission to use it to their roles.
  2. pikokms branch-keys move --all -k … --to NEW-ARN
  3. Put the new ARN in place of the old one in all KEYs. Then the old key can be
     disabled, and deleted when nothing has missed it.

Branch keys that are disabled are moved, too. Those that are destroyed stay.

The same command line goes on with a move that was interrupted. It makes two KMS
calls for each item: a branch key has one for each version, and two more.`,
		Example: `  pikokms branch-keys move -k 'branchkey://keys?key=ARN' --to NEW-ARN --all
  pikokms branch-keys move -k branchkey:keys.db?master=local:dev.key \
      --to local:new.key?name=2027 --all`,
		RunE: func(command *cobra.Command, arguments []string) error {
			ctx := command.Context()
			if to == "" {
				return console.Usage(errors.New("no KMS key to move to; name one with --to"))
			}
			store, ids, err := j.open(ctx, arguments, to)
			if err != nil {
				return err
			}
			defer store.Close()
			return j.move(ctx, store, ids)
		},
	}
	j.add(command)
	command.Flags().StringVar(&to, "to", "", "the `KMS-KEY` to move to: an ARN, or for a table in a file a local URL")
	console.ShowInShortHelp(command.Flags(), "to")
	return command
}

func (j *branchKeyJob) move(ctx context.Context, store *branchkey.Store, ids []string) error {
	begin := time.Now()
	var n tally
	n.shown = console.ShowText(func() string { return fmt.Sprintf("%s, of %d", n.movedText(), n.total.Load()) })
	err := j.run(ctx, store, ids, &n, func(id string) error {
		// After a conflict Move begins anew, and first counts what is moved already.
		counted, first := 0, true
		err := store.Move(ctx, id, func(moved, _ int) {
			if !first && moved > counted {
				n.items.Add(int64(moved - counted))
			}
			counted, first = max(counted, moved), false
		})
		if err != nil {
			return err
		}
		return store.Check(ctx, id)
	})
	n.shown.Close()
	took := time.Since(begin).Round(time.Millisecond)
	switch {
	case err != nil:
		console.Say(slog.LevelInfo, fmt.Sprintf("%s, of %d; the same command line goes on from here", n.movedText(), n.total.Load()))
		return err
	case n.failed.Load() > 0:
		return fmt.Errorf("%s, %d failed, in %v; the same command line tries again", n.movedText(), n.failed.Load(), took)
	}
	console.Say(slog.LevelInfo, fmt.Sprintf("%s, and checked that they are under %s and nothing is left under another key, in %v",
		n.movedText(), console.Printable(store.KeyARN()), took))
	return nil
}

func branchKeysCheck() *cobra.Command {
	var j branchKeyJob
	command := &cobra.Command{
		Use:   "check [-k KEY] {--all | [ID]...}",
		Short: "Check that branch keys are genuine",
		Long: `Check asks KMS whether each item of the branch keys is genuine, and checks that none
is missing, that all are under the KMS key of the KEY, and that the active version is
the newest. What fails is named with every reason, the others go on, and the exit
status is then 1. A table that was rolled back as a whole can't be told from one that
never changed. Of a branch key that was destroyed, all items must be.

It makes one KMS call for each item, and needs no permission to decrypt.`,
		Example: `  pikokms branch-keys check -k 'branchkey://keys?key=ARN' --all
  pikokms branch-keys check -k 'branchkey://keys?key=ARN' tenant-42`,
		RunE: func(command *cobra.Command, arguments []string) error {
			ctx := command.Context()
			store, ids, err := j.open(ctx, arguments, "")
			if err != nil {
				return err
			}
			defer store.Close()
			return j.check(ctx, store, ids)
		},
	}
	j.add(command)
	return command
}

func (j *branchKeyJob) check(ctx context.Context, store *branchkey.Store, ids []string) error {
	begin := time.Now()
	var n tally
	n.shown = console.ShowText(func() string {
		return fmt.Sprintf("%s, of %d, %d failed", n.checkedText(), n.total.Load(), n.failed.Load())
	})
	err := j.run(ctx, store, ids, &n, func(id string) error {
		if err := store.Check(ctx, id); err != nil {
			return err
		}
		d, err := store.Describe(ctx, id)
		if err == nil && errors.Is(d.Err, branchkey.ErrDestroyed) {
			n.destroyed.Add(1)
		}
		return err
	})
	n.shown.Close()
	text, took := n.checkedText(), time.Since(begin).Round(time.Millisecond)
	switch failed := n.failed.Load(); {
	case err != nil:
		return err
	case failed > 0:
		return fmt.Errorf("%s, %d failed, in %v", text, failed, took)
	}
	console.Say(slog.LevelInfo, fmt.Sprintf("%s: %s, in %v", text, n.foundText(store.KeyARN()), took))
	return nil
}

// foundText describes the branch keys that passed the check. The table need not have a KMS key.
func (n *tally) foundText(keyARN string) string {
	genuine := "genuine and complete"
	if keyARN != "" {
		genuine = "genuine, complete and under " + console.Printable(keyARN)
	}
	destroyed := n.destroyed.Load()
	switch rest := n.keys.Load() - destroyed; {
	case destroyed == 0:
		return genuine
	case rest == 0:
		return "destroyed"
	default:
		return fmt.Sprintf("%d %s, %d destroyed", rest, genuine, destroyed)
	}
}
