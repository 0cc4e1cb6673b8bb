// Package admin has the commands that are about keys alone: keys check, keys policy and
// branch-keys.
package admin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/spf13/cobra"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/local"
)

// KeysCommand is the command "keys", whose subcommands look at keys alone.
func KeysCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "keys COMMAND",
		Short: "Check keys, and make policies for them",
		Long:  "Keys check tells whether keys can be used, and keys policy who is to be allowed what.",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return console.Usage(errors.New("no command; there are check and policy"))
		},
		DisableFlagsInUseLine: true,
	}
	command.AddCommand(keysCheckCommand(), keysPolicyCommand())
	return command
}

// addTargets adds the flag of the KEYs that a rewrapper moves to.
func addTargets(command *cobra.Command, to *[]string) {
	command.Flags().StringArrayVar(to, "to", nil, "a `KEY` that rewrap moves to; may be repeated")
}

func keysCheckCommand() *cobra.Command {
	var given, stated []string
	var timeout time.Duration
	var to []string
	var role string
	var asJSON bool
	command := &cobra.Command{
		Use:   "check [-k KEY]... [--to KEY]... [--role ROLE] [-c NAME=VALUE]... [--json]",
		Short: "Check that keys are there and may be used",
		Long: `Check asks each key service about its key: its state, its kind, its rotation, and
by dry runs, which change nothing, what the credentials may do with it. It says
what does not work without each permission, and which statement to add to an IAM
policy. A local key is read, and used once. So are a branch key and a key of Google
Cloud KMS, Vault or OpenBao: a random data key is wrapped and unwrapped, which
changes nothing and is logged as any other use.

The exit status is 1 if something that is needed is missing. With --role, that is
what a reader (decrypt, verify, cat, serve), a writer (encrypt) or a rewrapper
(rewrap) needs, and else both of encrypt and decrypt. KEYs are together, as for
encrypt: one alone makes data keys, and several wrap them.

Policies may depend on the encryption context that -c states.`,
		Example: `  pikokms keys check -k 'awskms://alias/backups?region=eu-west-1' -k local:dev.key
  pikokms keys check --role rewrapper -k local:dev.key \
      --to 'awskms://alias/backups?region=eu-west-1' --json`,
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, _ []string) error {
			r := roleKeys{role: role}
			if role != "" {
				if err := checkRole(role); err != nil {
					return err
				}
			}
			if err := r.parse(given, to, stated, timeout); err != nil {
				return err
			}
			defer keys.CloseAll(r.keys)
			var checked []*CheckedKey
			unusable := 0
			for i, k := range r.keys {
				c := checkKey(command.Context(), k, r.pairs, r.actions(i))
				if command.Context().Err() != nil {
					return command.Context().Err()
				}
				checked = append(checked, c)
				if !c.Usable {
					unusable++
				}
			}
			if err := printChecked(os.Stdout, checked, asJSON); err != nil {
				return err
			}
			if unusable > 0 {
				return fmt.Errorf("%d of %s cannot be used%s", unusable, console.Count(int64(len(checked)), "key"), asRole(role))
			}
			return nil
		},
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringArrayVarP(&given, "key", "k", nil, "a `KEY` to check; may be repeated")
	addTargets(command, &to)
	flags.StringVar(&role, "role", "", "check only what this `ROLE` needs: "+strings.Join(roles, ", "))
	flags.StringArrayVarP(&stated, "context", "c", nil, "a pair `NAME=VALUE` of the encryption context of the dry runs; may be repeated")
	flags.DurationVar(&timeout, "kms-timeout", keys.DefaultTimeout, "how long to wait for each answer of a key service, retries included")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	console.ShowInShortHelp(flags, "key", "to", "role", "context", "json")
	console.AddTopics(command, "keys", "files")
	_ = command.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(roles, cobra.ShellCompDirectiveNoFileComp))
	return command
}

func asRole(role string) string {
	if role == "" {
		return " to encrypt and decrypt"
	}
	return " by a " + role
}

// CheckedKey is the result of checking a KEY. Its JSON form is stable.
type CheckedKey struct {
	Key          string              `json:"key"`
	Usable       bool                `json:"usable"` // nothing that is needed is missing
	Problems     []string            `json:"problems,omitempty"`
	ARN          string              `json:"arn,omitempty"`
	State        string              `json:"state,omitempty"`
	DeletionDate *time.Time          `json:"deletion_date,omitempty"`
	Usage        string              `json:"usage,omitempty"`
	Spec         string              `json:"spec,omitempty"`
	Origin       string              `json:"origin,omitempty"`
	MultiRegion  bool                `json:"multi_region,omitempty"`
	Rotation     *checkedRotation    `json:"rotation,omitempty"`
	File         string              `json:"file,omitempty"` // of a local key
	Mode         string              `json:"mode,omitempty"` // of the file, in octal
	Permissions  []checkedPermission `json:"permissions,omitempty"`
	Statement    []Statement         `json:"statement,omitempty"` // to be added to an IAM policy
}

type checkedRotation struct {
	Enabled    bool       `json:"enabled"`
	PeriodDays int        `json:"period_days,omitempty"`
	Next       *time.Time `json:"next,omitempty"`
}

// checkedPermission is an action, of IAM or of a local key.
type checkedPermission struct {
	Action  string `json:"action"`
	Allowed string `json:"allowed"` // yes, no, or unknown
	Needed  bool   `json:"needed"`
	Reason  string `json:"reason,omitempty"` // why it is not known
	Breaks  string `json:"breaks"`           // what does not work without it
}

// checkKey checks a KEY. needed are the actions that it must allow if it is a symmetric key of KMS.
func checkKey(ctx context.Context, k *keys.Key, pairs map[string]string, needed []string) *CheckedKey {
	c := &CheckedKey{Key: k.String()}
	var err error
	switch k.Service.Scheme {
	case local.KeyService.Scheme:
		err = c.checkLocal(ctx, k, needed)
	case awskms.KeyService.Scheme:
		err = c.checkKMS(ctx, k, pairs, needed)
	case awskms.DiscoveryKeyService.Scheme:
		err = fmt.Errorf("%s names no key; name one with %s", k, awskms.KeyService.Scheme)
	default:
		c.checkByUse(ctx, k, pairs, needed)
	}
	if err != nil {
		c.Problems = append(c.Problems, console.Explain(err))
	}
	c.Usable = len(c.Problems) == 0
	return c
}

func (c *CheckedKey) checkKMS(ctx context.Context, k *keys.Key, pairs map[string]string, needed []string) error {
	config, err := awskms.ParseURL(k.URL)
	if err != nil {
		return err
	}
	config.Timeout = min(k.Timeout, keys.DefaultTimeout) // of each attempt
	const questions = 6
	bounded, cancel := context.WithTimeout(ctx, questions*k.Timeout)
	defer cancel()
	e, err := examine(bounded, config, pairs)
	if err != nil {
		if failed, ok := errors.AsType[*provider.EncryptionError](err); ok {
			err = failed.Err
		}
		return err
	}
	c.ARN = e.arn
	if m := e.key; m != nil {
		c.State, c.Usage, c.Spec, c.Origin = string(m.KeyState), string(m.KeyUsage), string(m.KeySpec), string(m.Origin)
		c.MultiRegion, c.DeletionDate = aws.ToBool(m.MultiRegion), m.DeletionDate
	}
	if r := e.rotation; r != nil {
		c.Rotation = &checkedRotation{Enabled: r.KeyRotationEnabled, PeriodDays: int(aws.ToInt32(r.RotationPeriodInDays)), Next: r.NextRotationDate}
	}
	if e.usable != nil {
		c.Problems = append(c.Problems, console.Explain(e.usable))
	}
	isARN := isKeyARN(config.KeyID)
	if strings.HasPrefix(c.Spec, "RSA") {
		needed = rsaActionsOf(needed, config.PublicKeyFile != "")
	} else if c.Usage == "KEY_AGREEMENT" {
		needed = ecActionsOf(needed, &config)
	}
	if !isARN {
		needed = append(needed, actionDescribeKey)
	}
	var missing []string
	for _, p := range e.permissions {
		checked := checkedPermission{Action: p.action, Allowed: "yes", Needed: slices.Contains(needed, p.action), Breaks: brokenWithout(p.action, isARN)}
		switch {
		case p.isDenied():
			checked.Allowed = "no"
			if checked.Needed {
				missing = append(missing, p.action)
			}
		case p.err != nil:
			checked.Allowed, checked.Reason = "unknown", console.Explain(p.err)
			if checked.Needed && e.usable == nil {
				c.Problems = append(c.Problems, fmt.Sprintf("whether %s is allowed is not known: %s", p.action, checked.Reason))
			}
		}
		c.Permissions = append(c.Permissions, checked)
	}
	if len(missing) > 0 {
		c.Problems = append(c.Problems, "not allowed: "+strings.Join(missing, ", "))
		c.Statement = c.missingStatements(missing, config, pairs)
	}
	return nil
}

// missingStatements returns the statements that allow what is missing.
func (c *CheckedKey) missingStatements(missing []string, config awskms.Config, pairs map[string]string) []Statement {
	resource := c.ARN
	alias, isAlias := "", false
	if resource == "" {
		// The key is named by its ID or an alias, and KMS may not be asked for its ARN.
		region := cmp.Or(config.Region, "*")
		id := config.KeyID
		if a, err := arn.Parse(id); err == nil {
			region, id = a.Region, a.Resource
		}
		if alias, isAlias = id, strings.HasPrefix(id, "alias/"); isAlias {
			id = "*"
		}
		resource = fmt.Sprintf("arn:*:kms:%s:*:key/%s", region, id)
	}
	statements := allow("Pikokms", missing, []string{resource}, pairs)
	if isAlias {
		for i := range statements {
			if statements[i].Condition == nil {
				statements[i].Condition = make(map[string]map[string]string, 1)
			}
			statements[i].Condition["ForAnyValue:StringEquals"] = map[string]string{"kms:ResourceAliases": alias}
		}
	}
	return statements
}

func (c *CheckedKey) checkLocal(ctx context.Context, k *keys.Key, needed []string) error {
	config, err := local.ParseURL(k.URL)
	if err != nil {
		return err
	}
	if c.File, err = filepath.Abs(config.KeyFile); err != nil {
		return err
	}
	if info, err := os.Stat(c.File); err == nil {
		c.Mode = fmt.Sprintf("%04o", info.Mode().Perm())
	}
	keyring, err := k.Opened(ctx)
	if err != nil {
		return err
	}
	p := keyring.(provider.Provider)
	info, err := p.GetKeyInfo(ctx, "")
	if err != nil {
		return err
	}
	c.Spec = info.Algorithm
	wrapped, encryptErr := wrapOnce(ctx, p, nil)
	if encryptErr != nil {
		wrapped = header.EncryptedDataKey{
			ProviderID: info.Metadata["namespace"], ProviderInfo: []byte(info.Metadata["name"]), Ciphertext: make([]byte, 256),
		}
	}
	decryptErr := unwrapOnce(ctx, p, nil, wrapped)
	if encryptErr != nil && !errors.Is(decryptErr, provider.ErrKeyUsage) {
		decryptErr = nil // It wrapped no data key, so a failure to unwrap one shows nothing.
	}
	c.addUses(needed, encryptErr, decryptErr)
	return nil
}

// errNotTried means that there was no data key to unwrap.
var errNotTried = errors.New("it could not be tried, since the key encrypted nothing")

// checkByUse checks a KEY by wrapping a data key under it and unwrapping that again.
func (c *CheckedKey) checkByUse(ctx context.Context, k *keys.Key, pairs map[string]string, needed []string) {
	wrapped, encryptErr := wrapOnce(ctx, k, pairs)
	decryptErr := errNotTried
	if encryptErr == nil {
		decryptErr = unwrapOnce(ctx, k, pairs, wrapped)
	}
	c.addUses(needed, encryptErr, decryptErr)
}

// addUses adds the results of encrypting and decrypting with a key.
func (c *CheckedKey) addUses(needed []string, encryptErr, decryptErr error) {
	decrypts := slices.Contains(needed, actionDecrypt)
	encrypts := slices.ContainsFunc(needed, func(action string) bool { return action != actionDecrypt })
	for _, use := range []struct {
		action string
		needed bool
		err    error
		breaks string
	}{
		{"encrypt", encrypts, encryptErr, "encrypt -k and rewrap --to"},
		{"decrypt", decrypts, decryptErr, brokenWithout(actionDecrypt, true)},
	} {
		checked := checkedPermission{Action: use.action, Allowed: "yes", Needed: use.needed, Breaks: use.breaks}
		switch {
		case errors.Is(use.err, errNotTried):
			checked.Allowed, checked.Reason = "unknown", use.err.Error()
			if use.needed && !encrypts {
				c.Problems = append(c.Problems, "whether it decrypts is not known: "+strings.TrimPrefix(console.Explain(encryptErr), "key "+c.Key+": "))
			}
		case use.err != nil:
			checked.Allowed = "no"
			reason := strings.TrimPrefix(console.Explain(use.err), "key "+c.Key+": ")
			if errors.Is(use.err, provider.ErrProviderUnavailable) {
				checked.Allowed, checked.Reason = "unknown", reason
			}
			if use.needed {
				c.Problems = append(c.Problems, fmt.Sprintf("it does not %s: %s", use.action, reason))
			}
		}
		c.Permissions = append(c.Permissions, checked)
	}
}

func wrapOnce(ctx context.Context, k provider.Wrapper, pairs map[string]string) (header.EncryptedDataKey, error) {
	made, err := k.GenerateDataKey(ctx, pairs)
	if err != nil {
		return header.EncryptedDataKey{}, err
	}
	return made.EncryptedKey, made.PlaintextKey.Close()
}

func unwrapOnce(ctx context.Context, k provider.Unwrapper, pairs map[string]string, wrapped header.EncryptedDataKey) error {
	dataKey, err := k.UnwrapDataKey(ctx, &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Context: pairs, Size: 32})
	if err != nil {
		return err
	}
	return dataKey.Close()
}

// printChecked prints the results of checking keys.
func printChecked(w io.Writer, checked []*CheckedKey, asJSON bool) error {
	var text bytes.Buffer
	if asJSON {
		if err := encodeJSON(&text, checked); err != nil {
			return err
		}
	} else {
		for i, c := range checked {
			if i > 0 {
				text.WriteByte('\n')
			}
			if err := c.print(&text); err != nil {
				return err
			}
		}
	}
	_, err := w.Write(text.Bytes())
	return err
}

// encodeJSON writes a value as indented JSON.
func encodeJSON(w io.Writer, value any) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return err
	}
	_, err := w.Write(console.EscapeControls(text.Bytes()))
	return err
}

func (c *CheckedKey) print(w io.Writer) error {
	verdict := "can be used"
	if !c.Usable {
		verdict = "cannot be used"
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s %s\n", console.Printable(c.Key), verdict)
	for _, problem := range c.Problems {
		fmt.Fprintf(t, "  Problem\t%s\n", problem)
	}
	line := func(label, text string) {
		if text != "" {
			fmt.Fprintf(t, "  %s\t%s\n", label, console.Printable(text))
		}
	}
	line("ARN", c.ARN)
	state := c.State
	if c.DeletionDate != nil {
		state += " on " + c.DeletionDate.Format(time.DateOnly)
	}
	if state != "" {
		fmt.Fprintf(t, "  State\t%s\n", state)
	}
	kind := slices.DeleteFunc([]string{c.Spec, c.Usage, c.Origin}, func(s string) bool { return s == "" })
	if c.MultiRegion {
		kind = append(kind, "multi-Region")
	}
	if len(kind) > 0 {
		fmt.Fprintf(t, "  Kind\t%s\n", strings.Join(kind, ", "))
	}
	if c.Rotation != nil {
		fmt.Fprintf(t, "  Rotation\t%s\n", c.Rotation.text())
	}
	line("File", c.File)
	line("Mode", c.Mode)
	if err := t.Flush(); err != nil {
		return err
	}
	for _, p := range c.Permissions {
		need := "not needed; used by "
		if p.Needed {
			need = "needed by "
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\n", p.Action, map[string]string{"yes": "allowed", "no": "denied", "unknown": "unknown"}[p.Allowed], need+p.Breaks)
	}
	if err := t.Flush(); err != nil || len(c.Statement) == 0 {
		return err
	}
	fmt.Fprintf(w, "  To add to the statements of an IAM policy:\n")
	for _, s := range c.Statement {
		if err := encodeJSON(w, s); err != nil {
			return err
		}
	}
	return nil
}

func (r *checkedRotation) text() string {
	if !r.Enabled {
		return "off"
	}
	text := "on"
	if r.PeriodDays > 0 {
		text = fmt.Sprintf("every %d days", r.PeriodDays)
	}
	if r.Next != nil {
		text += ", next on " + r.Next.Format(time.DateOnly)
	}
	return text
}
