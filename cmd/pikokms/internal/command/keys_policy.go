package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/spf13/cobra"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
)

func keysPolicyCommand() *cobra.Command {
	var o options
	var to, principals []string
	var role string
	var isRSA bool
	command := &cobra.Command{
		Use:   "policy --role ROLE [-k KEY]... [--to KEY]... [-c NAME=VALUE]... [--principal ARN]... [--rsa]",
		Short: "Print the least policy that a role needs",
		Long: `Policy prints the JSON of an IAM policy that allows what a role needs of keys of
AWS KMS, and nothing else:
    reader     decrypt, verify, cat, serve: kms:Decrypt
    writer     encrypt: kms:GenerateDataKey, or for messages under several KEYs
               kms:Encrypt of each
    rewrapper  rewrap: what a reader needs of the KEYs of -k, and a writer of those
               of --to, which are the same ones if it is left out
A KEY that is an alias or an ID takes kms:DescribeKey, too. Of an ARN pikokms asks
the key's state before it encrypts, and goes on where it may not.

With -c, calls must have that pair in their encryption context, as by -c of
encrypt and rewrap.

With --principal it prints the policy of the one key: the principals have the role,
and the key's account administers the key, but its IAM policies allow no use of it.

KMS is only asked for the ARN of a KEY that is an alias or an ID.`,
		Example: `  pikokms keys policy --role reader -c tenant=42 \
      -k 'awskms:///arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab'
  pikokms keys policy --role writer --principal arn:aws:iam::111122223333:role/backup \
      -k 'awskms:///arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab'`,
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := checkRole(role); err != nil {
				return err
			}
			pairs, err := o.encryptionContext()
			switch {
			case err != nil:
				return err
			case len(to) > 0 && role != roleRewrapper:
				return usageError{errors.New("--to is for --role rewrapper")}
			case isRSA && len(pairs) > 0:
				return usageError{errors.New("-c is no use with --rsa: KMS sees no encryption context under an RSA key")}
			}
			for _, principal := range principals {
				if !arn.IsARN(principal) {
					return usageError{fmt.Errorf("--principal %q is not an ARN", principal)}
				}
			}
			keys, err := parseKeys(o.keys, o.timeout, false)
			if err != nil {
				return err
			}
			defer closeAll(keys)
			var targets []*key
			if len(to) > 0 {
				if targets, err = parseKeys(to, o.timeout, false); err != nil {
					return err
				}
			}
			defer closeAll(targets)
			if len(principals) > 0 && len(keys)+len(targets) > 1 {
				return usageError{errors.New("with --principal it is the policy of one key; name one")}
			}
			var statements []statement
			for i, k := range append(slices.Clone(keys), targets...) {
				keyARN, actions, err := neededOf(command.Context(), k, actionsOf(role, i >= len(keys), len(keys), len(targets)), isRSA)
				if err != nil {
					return err
				}
				if len(actions) == 0 {
					continue
				}
				statements = merge(statements, allow("Pikokms"+strings.ToUpper(role[:1])+role[1:], actions, []string{keyARN}, pairs))
			}
			if len(statements) == 0 {
				return errors.New("no permission is needed: whoever has the public key can encrypt")
			}
			if len(principals) > 0 {
				statements = ofKey(statements, principals)
			}
			return encodeJSON(os.Stdout, policy{policyVersion, statements})
		},
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringVar(&role, "role", "", "the `ROLE`: "+strings.Join(roles, ", "))
	flags.StringArrayVarP(&o.keys, "key", "k", nil, "a `KEY` of AWS KMS; may be repeated")
	addTargets(command, &to)
	flags.StringArrayVarP(&o.pairs, "context", "c", nil, "a pair `NAME=VALUE` that calls must have in their encryption context; may be repeated")
	flags.StringArrayVar(&principals, "principal", nil, "print a key policy for this user or role, an `ARN`; may be repeated")
	flags.BoolVar(&isRSA, "rsa", false, "the keys are RSA keys")
	flags.DurationVar(&o.timeout, "kms-timeout", defaultTimeout, "how long to wait for each answer of a key service, retries included")
	_ = command.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(roles, cobra.ShellCompDirectiveNoFileComp))
	return command
}

// neededOf returns the ARN of a KEY, and the actions that are needed on it.
func neededOf(ctx context.Context, k *key, actions []string, isRSA bool) (keyARN string, needed []string, err error) {
	if k.scheme == branchkey.Scheme && !k.inFile {
		return "", nil, usageError{fmt.Errorf("%s is a branch key: its policy is about a table, too, and is written by hand; docs/KEYS.md has one", k.text)}
	}
	if k.scheme != awskms.Scheme {
		return "", nil, usageError{fmt.Errorf("%s is no key of AWS KMS, so no policy is about it", k.text)}
	}
	config, err := awskms.ParseURL(k.url)
	if err != nil {
		return "", nil, err
	}
	if isRSA {
		actions = rsaActionsOf(actions, config.PublicKeyFile != "")
	}
	if a, err := arn.Parse(config.KeyID); err == nil && strings.HasPrefix(a.Resource, "key/") {
		return config.KeyID, actions, nil
	}
	keyARN, err = ask(ctx, k, func(ctx context.Context, keyring provider.Keyring) (string, error) {
		info, err := keyring.(*awskms.Provider).GetKeyInfo(ctx, config.KeyID)
		if err != nil {
			return "", err
		}
		return info.Metadata["arn"], nil
	})
	return keyARN, append(actions, awskms.ActionDescribeKey), err
}

// merge adds statements to a policy. One that allows the same as another adds its resource to it.
func merge(to, more []statement) []statement {
	for _, s := range more {
		i := slices.IndexFunc(to, func(other statement) bool {
			return fmt.Sprint(other.Action, other.Condition) == fmt.Sprint(s.Action, s.Condition)
		})
		if i < 0 {
			if n := len(to); n > 0 {
				s.Sid += fmt.Sprint(n + 1) // unique in a policy
			}
			to = append(to, s)
			continue
		}
		resources := append(listOf(to[i].Resource), listOf(s.Resource)...)
		to[i].Resource = one(slices.Compact(slices.Sorted(slices.Values(resources))))
	}
	return to
}

func listOf(value any) []string {
	if text, ok := value.(string); ok {
		return []string{text}
	}
	return value.([]string)
}

// administration has the actions by which a key's account keeps the key, none of which uses it (AWS
// KMS Developer Guide, "Default key policy", on key administrators).
var administration = []string{
	"kms:CancelKeyDeletion", "kms:CreateAlias", "kms:Delete*", "kms:Describe*", "kms:Disable*", "kms:Enable*", "kms:GetKey*",
	"kms:List*", "kms:Put*", "kms:ReplicateKey", "kms:Revoke*", "kms:RotateKeyOnDemand", "kms:ScheduleKeyDeletion",
	"kms:TagResource", "kms:UntagResource", "kms:Update*",
}

// ofKey returns the statements of a key's own policy. It replaces the whole of the earlier policy,
// so it keeps the key's account in charge.
func ofKey(statements []statement, principals []string) []statement {
	a, _ := arn.Parse(listOf(statements[0].Resource)[0])
	root := arn.ARN{Partition: a.Partition, Service: "iam", AccountID: a.AccountID, Resource: "root"}
	whole := []statement{{
		Sid: "Administration", Effect: "Allow", Principal: map[string]any{"AWS": root.String()},
		Action: administration, Resource: "*",
	}}
	for _, s := range statements {
		s.Principal, s.Resource = map[string]any{"AWS": one(principals)}, "*"
		whole = append(whole, s)
	}
	return whole
}
