package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/cmd/pikokms/keyservices"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/keyurl"
	"piko.sh/pikokms/provider/local"
)

const branchKeysLong = `Branch keys are random keys that AWS KMS wraps and that a table keeps. A process
asks for one once an hour, and wraps the data keys of messages itself: KMS calls
then do not grow with the number of objects, each tenant can have a key of its
own, and another KMS key is a matter of the table, not of the objects.

The table is one in DynamoDB, of the form that AWS's own libraries use, or a file
whose branch keys local keys wrap: for development, tests and single machines.

To use branch keys, give a branchkey URL as the KEY of other commands.`

// Manual explains how a table of branch keys is named. It is a part of the whole help of
// branch-keys and its subcommands, and of the man page.
const Manual = `
Tables of branch keys:
  A KEY is a URL, to be quoted for most shells:
    branchkey://TABLE?key=ARN                    a table in DynamoDB
    branchkey:///PATH?master=local:///PATH       a file, under a key file
    branchkey:PATH?master=local:PATH             the same, relative to this directory
  Other commands need the branch key, too. It is stated here or picked by messages:
    branchkey://TABLE/ID?key=ARN  branchkey:PATH?id=ID&master=local:PATH
    branchkey://TABLE?by=NAME&key=ARN            the value of the pair NAME is the ID
  key is the exact ARN of the KMS key that wraps the branch keys: no alias. Others
  whose wrapped keys may be read, too, are in &trusted=ARN,ARN. In their place,
  accounts=ACCOUNT,ACCOUNT reads what any key of these accounts wrapped.
  &multi-region=true also reads what replicas of these keys wrapped.
  A URL may have &region=REGION, &profile=NAME, &endpoint=URL (or &kms-endpoint and
  &table-endpoint), &grant-tokens=TOKEN,TOKEN and &logical-name=NAME, which is bound
  to every key of the table and is the table's name by default. &ttl=1h is how long
  a process uses a branch key that it asked for, &entries=1000 how many it keeps.
  With a file, &trusted-master=local:PATH is a second key file. It needs another
  name than the first: master=local:new.key?name=2027.
  Without -k, the KEY is the branchkey URL in the environment variable PIKOKMS_KEY.

Exit status:
  0  done
  1  failed or interrupted; what was done before stays, and move goes on from there
  2  wrong usage
`

// BranchKeysCommand manages tables of branch keys.
func BranchKeysCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "branch-keys",
		Short: "Make, list, check, move and destroy the branch keys of a table",
		Long:  branchKeysLong,
		Example: `  pikokms branch-keys create --table -k 'branchkey://keys?key=ARN' -c tenant=42 tenant-42
  pikokms encrypt -k 'branchkey://keys/tenant-42?key=ARN' -o report.enc report.pdf
  pikokms branch-keys list -k 'branchkey://keys?key=ARN'
  pikokms branch-keys move -k 'branchkey://keys?key=ARN' --to OTHER-ARN --all`,
		Args: func(_ *cobra.Command, arguments []string) error {
			if len(arguments) > 0 {
				return fmt.Errorf("unknown command %q; there are create, version, list, show, move, check, disable, enable and destroy", arguments[0])
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error {
			return console.Usage(errors.New("no command; there are create, version, list, show, move, check, disable, enable and destroy"))
		},
	}
	console.AddTopics(command, "branch-keys")
	command.AddCommand(branchKeysCreate(), branchKeysVersion(), branchKeysList(), branchKeysShow(), branchKeysMove(), branchKeysCheck(),
		branchKeysDisable(), branchKeysEnable(), branchKeysDestroy())
	return command
}

// keyStore is the table of branch keys that a command works on.
type keyStore struct {
	key string // the value of -k
}

// add adds the flags.
func (s *keyStore) add(command *cobra.Command) {
	command.DisableFlagsInUseLine = true
	command.Flags().SortFlags = false
	command.Flags().StringVarP(&s.key, "key", "k", "", "the `KEY` that names the table, and what wraps its branch keys")
	console.ShowInShortHelp(command.Flags(), "key")
	console.AddTopics(command, "branch-keys")
}

// parse parses the KEY.
func (s *keyStore) parse() (c branchkey.Config, err error) {
	origin, text := "-k", s.key
	if text == "" {
		origin = keys.Variable
		urls := slices.DeleteFunc(strings.Fields(os.Getenv(keys.Variable)), func(text string) bool {
			return !strings.HasPrefix(text, branchkey.KeyService.Scheme+":")
		})
		if len(urls) != 1 {
			return c, console.Usage(fmt.Errorf("no table of branch keys; name one with -k branchkey://TABLE?key=ARN, or by one such URL in the environment variable %s", keys.Variable))
		}
		text = urls[0]
	}
	u, err := keyurl.ParseURL(text, keyservices.All()...)
	if err != nil {
		return c, console.Usage(fmt.Errorf("%s: %w", origin, err))
	}
	if u.Scheme != branchkey.KeyService.Scheme {
		return c, console.Usage(fmt.Errorf("%s: %q names no table of branch keys, branchkey://TABLE?key=ARN does", origin, provider.RedactURL(u.String())))
	}
	if c, err = branchkey.ParseURL(u); err != nil {
		return c, console.Usage(fmt.Errorf("%s: %w", origin, err))
	}
	return c, nil
}

// open opens the table. The IDs are those of the command line or, if there are none, of the KEY.
func (s *keyStore) open(ctx context.Context, arguments []string) (store *branchkey.Store, ids []string, err error) {
	c, err := s.parse()
	if err != nil {
		return nil, nil, err
	}
	store, err = branchkey.NewStore(ctx, c)
	return store, idsOf(c, arguments), err
}

// idsOf returns the branch key IDs of the command line or, if there are none, of the KEY.
func idsOf(c branchkey.Config, arguments []string) []string {
	if len(arguments) == 0 && c.BranchKeyID != "" {
		return []string{c.BranchKeyID}
	}
	return arguments
}

// wrapUnder makes a KMS key the one that wraps the branch keys of a table. The one before stays
// trusted.
func wrapUnder(c *branchkey.Config, to string) error {
	if c.File == "" {
		if len(c.KMS.Accounts) > 0 {
			return errors.New("-k: name the KMS key that the branch keys are under with key=ARN in place of accounts")
		}
		trusted := append([]string{c.KMS.KeyID}, c.KMS.TrustedKeys...)
		c.KMS.KeyID, c.KMS.TrustedKeys = to, slices.DeleteFunc(trusted, func(a string) bool { return a == to })
		return nil
	}
	u, err := keyurl.ParseURL(to, local.KeyService)
	if err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	if u.Scheme != local.KeyService.Scheme {
		return fmt.Errorf("--to: %q is not a local key, which a table in a file needs: local:PATH", provider.RedactURL(u.String()))
	}
	master, err := local.ParseURL(u)
	if err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	same := func(m local.Config) bool {
		return m.KeyFile == master.KeyFile && m.Namespace == master.Namespace && m.Name == master.Name
	}
	c.Masters = slices.DeleteFunc(c.Masters, same)
	for _, m := range c.Masters {
		if name := cmp.Or(m.Name, "local"); name == cmp.Or(master.Name, "local") {
			return fmt.Errorf("--to: %s and %s have one name, %q, and items name their key by it; give the new one another with local:PATH?name=NAME", m.KeyFile, master.KeyFile, name)
		}
	}
	c.Masters = slices.Insert(c.Masters, 0, master)
	return nil
}

// namingBranchKey returns err with the ID of the branch key, in place of a provider.EncryptionError
// around it.
func namingBranchKey(id string, err error) error {
	if failed, ok := errors.AsType[*provider.EncryptionError](err); ok {
		err = failed.Err
	}
	if id == "" || err == nil {
		return err
	}
	return fmt.Errorf("branch key %s: %w", console.Printable(id), err)
}

func branchKeysCreate() *cobra.Command {
	var s keyStore
	var stated []string
	var table bool
	command := &cobra.Command{
		Use:   "create [-k KEY] [--table] [-c NAME=VALUE]... [ID]",
		Short: "Make a branch key",
		Long: `Create makes a branch key and writes its ID on standard output: the given one, or
else a random UUID. With an ID of one's own, such as a tenant's, -c must state at
least one pair. It is bound to the branch key for good, and anyone who reads the
table or AWS CloudTrail sees it.

It makes three KMS calls. An existing branch key is left as it is.`,
		Example: `  pikokms branch-keys create -k 'branchkey://keys?key=ARN' --table
  pikokms branch-keys create -k 'branchkey://keys?key=ARN' -c tenant=42 tenant-42
  pikokms branch-keys create -k branchkey:keys.db?master=local:dev.key --table`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, arguments []string) error {
			ctx := command.Context()
			pairs, err := keys.ParsePairs(stated)
			if err != nil {
				return err
			}
			store, ids, err := s.open(ctx, arguments)
			if err != nil {
				return err
			}
			defer store.Close()
			id := ""
			if len(ids) > 0 {
				if id = ids[0]; id == "" {
					return console.Usage(errors.New("the branch key ID is empty; leave it out for a random one"))
				}
				if len(pairs) == 0 {
					return console.Usage(fmt.Errorf("a branch key with an ID of your own needs an encryption context: state a pair with -c, such as -c tenant=%s", console.Printable(id)))
				}
			}
			if table {
				if err := store.CreateTable(ctx); err != nil {
					return namingBranchKey("", err)
				}
			}
			made, err := store.Create(ctx, id, pairs)
			if err != nil {
				return namingBranchKey(id, err)
			}
			_, err = fmt.Println(made)
			return err
		},
	}
	s.add(command)
	command.Flags().StringArrayVarP(&stated, "context", "c", nil, "a pair `NAME=VALUE` of the branch key's own encryption context; may be repeated")
	console.ShowInShortHelp(command.Flags(), "context")
	command.Flags().BoolVar(&table, "table", false, "make the table first if there is none; one in DynamoDB is billed by request and protected against deletion")
	return command
}

func branchKeysVersion() *cobra.Command {
	var s keyStore
	command := &cobra.Command{
		Use:   "version [-k KEY] [ID]...",
		Short: "Make new versions of branch keys",
		Long: `Version makes a new version of each branch key, which new messages are encrypted
under from then on, and writes the version's UUID on standard output. Messages
under older versions still open, so nothing must be encrypted anew. If others may
know an older version, rewrap encrypts the messages under it anew. Processes go on
under the version that they know until its TTL has passed, an hour by default.

It makes four KMS calls for each branch key. Without an ID it is about that of the
KEY.`,
		Example: `  pikokms branch-keys version -k 'branchkey://keys?key=ARN' tenant-42
  pikokms branch-keys list -k 'branchkey://keys?key=ARN' --json |
      jq -r .id | xargs pikokms branch-keys version -k 'branchkey://keys?key=ARN'`,
		RunE: func(command *cobra.Command, arguments []string) error {
			ctx := command.Context()
			store, ids, err := s.open(ctx, arguments)
			if err != nil {
				return err
			}
			defer store.Close()
			if len(ids) == 0 {
				return console.Usage(errors.New("name the branch keys to make new versions of"))
			}
			for _, id := range ids {
				version, err := store.CreateVersion(ctx, id)
				if errors.Is(err, branchkey.ErrConflict) {
					err = fmt.Errorf("%w; look with branch-keys show whether a new version is still needed", err)
				}
				if err != nil {
					return namingBranchKey(id, err)
				}
				if _, err := fmt.Println(version); err != nil {
					return err
				}
			}
			return nil
		},
	}
	s.add(command)
	return command
}
