package verbs

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
)

// options are the flags of the commands that take keys.
type options struct {
	keys           []string
	pairs          []string
	out            string
	replace        bool
	policy         string
	limits         header.Limits
	timeout        time.Duration
	encode, decode bool
	pikoV2         bool         // decrypt only
	names          []string     // names of pairs that a message must store
	remote         *keys.Remote // several keys of key services, to decrypt one message
	single         bool         // one message is read, not a place of many

	// These are for objects of AWS's S3 Encryption Client.
	clientMemory    string         // in bytes or with a unit
	unauthenticated bool           // AES-CBC is read, too
	readsClients    pikokms.Option // of a host that decrypts; set by check
}

// addKeys adds the flags of keys.
func (o *options) addKeys(command *cobra.Command, keyUsage, pairUsage string) {
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringArrayVarP(&o.keys, "key", "k", nil, keyUsage)
	flags.StringArrayVarP(&o.pairs, "context", "c", nil, pairUsage)
	var policies []string
	for p := message.RequireEncryptRequireDecrypt; p <= message.ForbidEncryptAllowDecrypt; p++ {
		policies = append(policies, p.String())
	}
	flags.StringVar(&o.policy, "commitment-policy", policies[0], "the key commitment `POLICY`: "+strings.Join(policies, ", "))
	flags.DurationVar(&o.timeout, "kms-timeout", keys.DefaultTimeout, "how long to wait for each answer of a key service, retries included")
	console.ShowInShortHelp(flags, "key", "context")
	console.AddTopics(command, "keys", "files")
	_ = command.RegisterFlagCompletionFunc("commitment-policy", cobra.FixedCompletions(policies, cobra.ShellCompDirectiveNoFileComp))
}

// addOutput adds the flags that say where a result goes.
func (o *options) addOutput(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVarP(&o.out, "out", "o", "", "the `OUT` file, folder or bucket; \"-\" or nothing is standard output")
	flags.BoolVarP(&o.replace, "force", "f", false, "replace an existing OUT")
	console.ShowInShortHelp(flags, "out", "force")
	flags.BoolVar(&o.encode, "encode", false, "write OUT as base64")
	flags.BoolVar(&o.decode, "decode", false, "read IN as base64")
}

// addReading adds the flags that say what may be decrypted.
func (o *options) addReading(command *cobra.Command) {
	flags, limits := command.Flags(), header.Limits{}.WithDefaults()
	flags.IntVar(&o.limits.MaxEncryptedDataKeys, "max-keys", limits.MaxEncryptedDataKeys, "the most data keys that a message may have")
	flags.IntVar(&o.limits.MaxPairs, "max-pairs", limits.MaxPairs, "the most pairs of encryption context that a message may have")
	flags.IntVar(&o.limits.MaxAttempts, "max-attempts", limits.MaxAttempts, "the most data keys of a message that the keys are tried on")
	flags.StringVar(&o.clientMemory, "s3-client-memory", "1GiB", "the most memory for objects of AWS's S3 Encryption Client, all together; such an object is decrypted in memory as a whole")
	flags.BoolVar(&o.unauthenticated, "allow-unauthenticated-s3-client", false, "also read what version 1 of AWS's S3 Encryption Client wrote with AES-CBC, in which a change goes unnoticed")
	flags.BoolVar(&o.pikoV2, "allow-piko-v2", false, "also read streams that Piko wrote before pikokms, in which a cut may go unnoticed")
}

const (
	keyToDecrypt  = "a `KEY` to decrypt with; may be repeated"
	pairToDecrypt = "a pair `NAME=VALUE` that a message must have, or the NAME of one; may be repeated"
)

// requiredContext parses the pairs that a message must have, and keeps the names of those that may
// have any value.
func (o *options) requiredContext() (map[string]string, error) {
	given := o.pairs
	o.pairs = nil
	for _, pair := range given {
		if pair != "" && !strings.Contains(pair, "=") {
			o.names = append(o.names, pair)
		} else {
			o.pairs = append(o.pairs, pair)
		}
	}
	return o.encryptionContext()
}

// encryptionContext parses the pairs.
func (o *options) encryptionContext() (map[string]string, error) {
	return keys.ParsePairs(o.pairs)
}
