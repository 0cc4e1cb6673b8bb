package admin

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/provider/branchkey"
)

// DescribedKey is a branch key in the JSON of list and show. The form is stable.
type DescribedKey struct {
	ID      string            `json:"id"`
	Context map[string]string `json:"context"` // the branch key's own encryption context
	Active  describedVersion  `json:"active"`

	State     string     `json:"state"`               // enabled, disabled or destroyed
	Disabled  *time.Time `json:"disabled,omitempty"`  // since when
	Destroyed *time.Time `json:"destroyed,omitempty"` // when
	Behind    []string   `json:"behind,omitempty"`    // types of items that are in another state; only show has them

	Versions []describedVersion `json:"versions,omitempty"` // the oldest first; only show has them
}

type describedVersion struct {
	ID      string    `json:"id"`
	KMSKey  string    `json:"kms_key"` // the ARN of the KMS key that wraps it
	Created time.Time `json:"created"`
}

func describeKey(d *branchkey.Description) DescribedKey {
	version := func(v branchkey.Version) describedVersion { return describedVersion{v.ID, v.KeyARN, v.Created} }
	described := DescribedKey{ID: d.ID, Context: d.Context, Active: version(d.Active), State: stateOf(d), Behind: d.Behind}
	if !d.Disabled.IsZero() {
		described.Disabled = &d.Disabled
	}
	if !d.Destroyed.IsZero() {
		described.Destroyed = &d.Destroyed
	}
	if described.Context == nil {
		described.Context = map[string]string{}
	}
	for _, v := range d.Versions {
		described.Versions = append(described.Versions, version(v))
	}
	return described
}

func stateOf(d *branchkey.Description) string {
	switch {
	case errors.Is(d.Err, branchkey.ErrDestroyed):
		return "destroyed"
	case errors.Is(d.Err, branchkey.ErrDisabled):
		return "disabled"
	}
	return "enabled"
}

func branchKeysList() *cobra.Command {
	var s keyStore
	var asJSON bool
	command := &cobra.Command{
		Use:   "list [-k KEY] [--json]",
		Short: "List the branch keys of a table",
		Long: `List shows a line for each branch key, in no order: when its active version was
made, that version's UUID, its ID, its own encryption context, and whether it is
disabled or destroyed; and then how many are under each KMS key. With --json there
is a line of JSON for each.

It reads the whole table and asks no KMS, so it verifies nothing: check does. Damaged
items are named on standard error, and the exit status is then 1.`,
		Example: `  pikokms branch-keys list -k 'branchkey://keys?key=ARN'
  pikokms branch-keys list -k 'branchkey://keys?key=ARN' --json | jq -r .active.kms_key`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx := command.Context()
			store, _, err := s.open(ctx, nil)
			if err != nil {
				return err
			}
			defer store.Close()
			under := make(map[string]int)
			listed, destroyed, damaged := 0, 0, int64(0)
			for d, err := range store.List(ctx) {
				if errors.Is(err, branchkey.ErrDamaged) { // which is about one branch key
					damaged++
					console.Say(slog.LevelError, console.Explain(namingBranchKey("", err)))
					continue
				}
				if err != nil {
					return namingBranchKey("", err)
				}
				if listed == 0 && !asJSON {
					if _, err := fmt.Printf("%-20s  %-36s  %s\n", "CREATED", "ACTIVE VERSION", "ID AND CONTEXT"); err != nil {
						return err
					}
				}
				listed++
				if errors.Is(d.Err, branchkey.ErrDestroyed) {
					destroyed++
				} else {
					under[d.Active.KeyARN]++
				}
				if err := printListed(os.Stdout, d, asJSON); err != nil {
					return err
				}
			}
			if !asJSON && listed > 0 {
				fmt.Printf("\n%11s  %s\n", "BRANCH KEYS", "KMS KEY")
				for _, keyARN := range slices.Sorted(maps.Keys(under)) {
					fmt.Printf("%11d  %s\n", under[keyARN], console.Printable(keyARN))
				}
				if destroyed > 0 {
					fmt.Printf("%11d  none: destroyed\n", destroyed)
				}
				if _, err := fmt.Printf("\nNot verified: branch-keys check asks KMS whether this is true.\n"); err != nil {
					return err
				}
			}
			if damaged > 0 {
				return fmt.Errorf("%s can't be used", console.Count(damaged, "branch key"))
			}
			return nil
		},
	}
	s.add(command)
	command.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	console.ShowInShortHelp(command.Flags(), "json")
	return command
}

func printListed(w io.Writer, d *branchkey.Description, asJSON bool) error {
	if asJSON {
		text, err := json.Marshal(describeKey(d))
		if err != nil {
			return err
		}
		_, err = w.Write(append(console.EscapeControls(text), '\n'))
		return err
	}
	line := []string{console.Printable(d.ID)}
	for _, name := range slices.Sorted(maps.Keys(d.Context)) {
		line = append(line, console.Printable(name)+"="+console.Printable(d.Context[name]))
	}
	if d.Err != nil {
		line = append(line, "("+stateText(d)+")")
	}
	_, err := fmt.Fprintf(w, "%-20s  %s  %s\n", d.Active.Created.UTC().Format(time.RFC3339), d.Active.ID, strings.Join(line, " "))
	return err
}

func branchKeysShow() *cobra.Command {
	var s keyStore
	var asJSON bool
	command := &cobra.Command{
		Use:   "show [-k KEY] [--json] [ID]",
		Short: "Show a branch key with all its versions",
		Long: `Show shows a branch key with all its versions, the newest first, and the KMS key that
wraps each. Without an ID it is that of the KEY. It asks no KMS, so it verifies
nothing: check does. Damaged items are named on standard error, and the exit status
is then 1.`,
		Example: `  pikokms branch-keys show -k 'branchkey://keys?key=ARN' tenant-42
  pikokms branch-keys show -k 'branchkey://keys/tenant-42?key=ARN' --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, arguments []string) error {
			ctx := command.Context()
			store, ids, err := s.open(ctx, arguments)
			if err != nil {
				return err
			}
			defer store.Close()
			if len(ids) == 0 {
				return console.Usage(errors.New("name the branch key to show"))
			}
			d, err := store.Describe(ctx, ids[0])
			if err != nil {
				err = namingBranchKey(ids[0], err)
			}
			if d == nil {
				return err
			}
			return cmp.Or(printShown(os.Stdout, d, store.LogicalName(), asJSON), err)
		},
	}
	s.add(command)
	command.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	console.ShowInShortHelp(command.Flags(), "json")
	return command
}

func printShown(w io.Writer, d *branchkey.Description, logicalName string, asJSON bool) error {
	if asJSON {
		text, err := json.MarshalIndent(describeKey(d), "", "  ")
		if err != nil {
			return err
		}
		_, err = w.Write(append(console.EscapeControls(text), '\n'))
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "Branch key\t%s\n", console.Printable(d.ID))
	fmt.Fprintf(t, "Table's logical name\t%s\n", console.Printable(logicalName))
	fmt.Fprintf(t, "State\t%s\n", stateText(d))
	for i, name := range slices.Sorted(maps.Keys(d.Context)) {
		fmt.Fprintf(t, "%s\t%s = %s\n", console.FirstOnly(i, "Encryption context"), console.Printable(name), console.Printable(d.Context[name]))
	}
	if len(d.Context) == 0 {
		fmt.Fprintf(t, "Encryption context\tnone\n")
	}
	fmt.Fprintf(t, "Active version\t%s\n", versionText(d.Active))
	older := slices.DeleteFunc(slices.Clone(d.Versions), func(v branchkey.Version) bool { return v.ID == d.Active.ID })
	for i, v := range slices.Backward(older) {
		fmt.Fprintf(t, "%s\t%s\n", console.FirstOnly(len(older)-1-i, "Older versions"), versionText(v))
	}
	fmt.Fprintf(t, "\nNot verified: branch-keys check asks KMS whether this is true.\n")
	return t.Flush()
}

func versionText(v branchkey.Version) string {
	return fmt.Sprintf("%s of %s, under %s", v.ID, v.Created.UTC().Format(time.RFC3339), console.Printable(v.KeyARN))
}
