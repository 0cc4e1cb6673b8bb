package admin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/spf13/cobra"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
)

func keysPolicyCommand() *cobra.Command {
	var given, stated []string
	var timeout time.Duration
	var to, principals []string
	var role string
	var rsaKeys []string
	command := &cobra.Command{
		Use:   "policy --role ROLE [-k KEY]... [--to KEY]... [-c NAME=VALUE]... [--principal ARN]... [--rsa[=KEY]]...",
		Short: "Print the least policy that a role needs",
		Long: `Policy prints the JSON of an IAM policy that allows what a role needs of keys of
AWS KMS, and nothing else:
    reader     decrypt, verify, cat, serve: kms:Decrypt
    writer     encrypt: kms:GenerateDataKey, or for messages under several KEYs
               kms:Encrypt of each
    rewrapper  rewrap: what a reader needs of the KEYs of -k, and a writer of those
               of --to, which are the same ones if it is left out
A KEY that is an alias or an ID takes kms:DescribeKey, too. Of an ARN pikokms asks
the key's state before it encrypts, and goes on where it may not. Give all KEYs of
the command line, since several of them are used in another way than one. KEYs that
are not of AWS KMS, such as a local key for recovery, count, and need no policy.

With -c, calls must have that pair in their encryption context, as by -c of
encrypt and rewrap. KMS sees none of calls of RSA keys.

RSA and EC keys need other permissions. An alias and an ID are looked up, and a URL
with public-key, hash or peer tells. Of other KEYs, --rsa says that all of them are RSA keys, or
--rsa=KEY that this one is.

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
			for _, principal := range principals {
				if !arn.IsARN(principal) {
					return console.Usage(fmt.Errorf("--principal %q is not an ARN", principal))
				}
			}
			r := roleKeys{role: role}
			if err := r.parse(given, to, stated, timeout); err != nil {
				return err
			}
			defer keys.CloseAll(r.keys)
			if err := checkPolicyKeys(r.keys, rsaKeys, len(principals) > 0); err != nil {
				return console.Usage(err)
			}
			statements, err := r.statements(command.Context(), rsaKeys)
			if err != nil {
				return err
			}
			if len(r.pairs) > 0 && len(statements) > 0 && !slices.ContainsFunc(statements, func(s Statement) bool { return s.Condition != nil }) {
				return console.Usage(errors.New("-c is no use with RSA keys alone: KMS sees no encryption context under an RSA key"))
			}
			if len(statements) == 0 {
				return errors.New("no permission is needed: whoever has the public key can encrypt")
			}
			if len(principals) > 0 {
				statements = keyPolicy(statements, principals)
			}
			return encodeJSON(os.Stdout, Policy{PolicyVersion, statements})
		},
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringVar(&role, "role", "", "the `ROLE`: "+strings.Join(roles, ", "))
	flags.StringArrayVarP(&given, "key", "k", nil, "a `KEY` of AWS KMS; may be repeated")
	addTargets(command, &to)
	flags.StringArrayVarP(&stated, "context", "c", nil, "a pair `NAME=VALUE` that calls must have in their encryption context; may be repeated")
	flags.StringArrayVar(&principals, "principal", nil, "print a key policy for this user or role, an `ARN`; may be repeated")
	flags.StringArrayVar(&rsaKeys, "rsa", nil, "all keys, or this `KEY`, are RSA keys; may be repeated")
	console.ShowInShortHelp(flags, "role", "key", "to", "context", "principal")
	console.AddTopics(command, "keys", "files")
	flags.Lookup("rsa").NoOptDefVal = allKeys
	flags.DurationVar(&timeout, "kms-timeout", keys.DefaultTimeout, "how long to wait for each answer of a key service, retries included")
	_ = command.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(roles, cobra.ShellCompDirectiveNoFileComp))
	return command
}

// statements returns the statements that allow what the role needs of its keys of AWS KMS. Those of
// --rsa are RSA keys.
func (r *roleKeys) statements(ctx context.Context, rsaKeys []string) ([]Statement, error) {
	sid := "Pikokms" + strings.ToUpper(r.role[:1]) + r.role[1:]
	var statements []Statement
	for i, k := range r.keys {
		if k.Service.Scheme != awskms.KeyService.Scheme {
			continue // It is only used together with the others.
		}
		statedRSA := slices.ContainsFunc(rsaKeys, func(named string) bool { return named == allKeys || named == "true" || named == k.Given })
		needed, err := neededOf(ctx, k, r.actions(i), statedRSA)
		if err != nil {
			return nil, err
		}
		if len(needed.actions) == 0 {
			continue
		}
		pairs := r.pairs
		if needed.isRSA || needed.isEC {
			pairs = nil
		}
		statements = merge(statements, allow(sid, needed.actions, []string{needed.keyARN}, pairs))
	}
	return statements, nil
}

// allKeys is the value of --rsa that stands for all keys.
const allKeys = "all"

// checkPolicyKeys returns an error if no policy can be made for the keys.
func checkPolicyKeys(ks []*keys.Key, rsaKeys []string, ofOne bool) error {
	ofKMS := 0
	for _, k := range ks {
		switch {
		case k.Service.Scheme == branchkey.KeyService.Scheme && !k.Local:
			return fmt.Errorf("%s is a branch key: its policy is about a table, too, and is written by hand; docs/KEYS.md has one", k)
		case k.Service.Scheme == awskms.DiscoveryKeyService.Scheme:
			return fmt.Errorf("%s names no key of AWS KMS that a policy could be about", k)
		case k.Service.Scheme == awskms.KeyService.Scheme:
			ofKMS++
		}
	}
	for _, named := range rsaKeys {
		if named != allKeys && named != "true" && !slices.ContainsFunc(ks, func(k *keys.Key) bool { return k.Given == named }) {
			return fmt.Errorf("--rsa=%s is none of the KEYs; write it as there", named)
		}
	}
	switch {
	case ofKMS == 0 && len(ks) == 1:
		return fmt.Errorf("%s is no key of AWS KMS, so no policy is about it", ks[0])
	case ofKMS == 0:
		return errors.New("none of the KEYs is one of AWS KMS, so no policy is about them")
	case ofOne && ofKMS > 1:
		return errors.New("with --principal it is the policy of one key; name one")
	}
	return nil
}

// requirement is what a role needs of a key.
type requirement struct {
	keyARN  string
	actions []string
	isRSA   bool
	isEC    bool
}

// neededOf returns what a role needs of a KEY. The given actions are those on a symmetric key; for
// RSA and EC keys it returns others.
func neededOf(ctx context.Context, k *keys.Key, actions []string, statedRSA bool) (*requirement, error) {
	config, err := awskms.ParseURL(k.URL)
	if err != nil {
		return nil, err
	}
	n := &requirement{keyARN: config.KeyID, isEC: config.PeerFile != ""}
	if config.PublicKeyFile != "" && !n.isEC {
		if n.isEC, err = isECFile(config.PublicKeyFile); err != nil {
			return nil, err
		}
	}
	n.isRSA = !n.isEC && (statedRSA || config.PublicKeyFile != "" || config.Hash != 0)
	isLookedUp := !isKeyARN(config.KeyID)
	if isLookedUp {
		info, err := keys.Ask(ctx, k, func(ctx context.Context, keyring provider.Unwrapper) (*provider.KeyInfo, error) {
			return keyring.(provider.Provider).GetKeyInfo(ctx, config.KeyID)
		})
		if err != nil {
			return nil, err
		}
		n.keyARN, n.isEC = info.Metadata["arn"], strings.HasPrefix(info.Algorithm, "ECC_")
		n.isRSA = !n.isEC && (n.isRSA || strings.HasPrefix(info.Algorithm, "RSA_"))
	}
	n.actions = slices.Clone(actions)
	if n.isRSA {
		n.actions = rsaActionsOf(actions, config.PublicKeyFile != "")
	}
	if n.isEC {
		n.actions = ecActionsOf(actions, &config)
	}
	if isLookedUp {
		n.actions = append(n.actions, actionDescribeKey)
	}
	return n, nil
}

// merge adds statements to a policy. A statement that allows the same actions as one in the policy,
// under the same condition, is joined to that.
func merge(to, more []Statement) []Statement {
	for _, s := range more {
		i := slices.IndexFunc(to, func(other Statement) bool {
			return fmt.Sprint(other.Action, other.Condition) == fmt.Sprint(s.Action, s.Condition)
		})
		if i < 0 {
			if n := len(to); n > 0 {
				s.Sid += fmt.Sprint(n + 1) // a Sid is unique in a policy
			}
			to = append(to, s)
			continue
		}
		resources := append(listOf(to[i].Resource), listOf(s.Resource)...)
		to[i].Resource = oneOrList(slices.Compact(slices.Sorted(slices.Values(resources))))
	}
	return to
}

func listOf(value any) []string {
	if text, ok := value.(string); ok {
		return []string{text}
	}
	return value.([]string)
}

// administration has the actions by which a key's account manages the key. None of them uses it
// (AWS KMS Developer Guide, "Default key policy", on key administrators).
var administration = []string{
	"kms:CancelKeyDeletion", "kms:CreateAlias", "kms:Delete*", "kms:Describe*", "kms:Disable*", "kms:Enable*", "kms:GetKey*",
	"kms:List*", "kms:Put*", "kms:ReplicateKey", "kms:Revoke*", "kms:RotateKeyOnDemand", "kms:ScheduleKeyDeletion",
	"kms:TagResource", "kms:UntagResource", "kms:Update*",
}

// keyPolicy returns the statements of a key's own policy, for principals. Such a policy replaces
// the one before, so it also has a statement that leaves the key's account in charge.
func keyPolicy(statements []Statement, principals []string) []Statement {
	a, _ := arn.Parse(listOf(statements[0].Resource)[0])
	root := arn.ARN{Partition: a.Partition, Service: "iam", AccountID: a.AccountID, Resource: "root"}
	policy := []Statement{{
		Sid: "Administration", Effect: "Allow", Principal: map[string]any{"AWS": root.String()},
		Action: administration, Resource: "*",
	}}
	for _, s := range statements {
		s.Principal, s.Resource = map[string]any{"AWS": oneOrList(principals)}, "*"
		policy = append(policy, s)
	}
	return policy
}
