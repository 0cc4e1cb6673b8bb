package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
)

// maxKeys is how many encrypted data keys a message may have to be read with default limits.
const maxKeys = 16

// options are the flags that encrypt and decrypt share.
type options struct {
	keys    []string
	pairs   []string
	out     string
	replace bool
	policy  string
	pikoV2  bool // of decrypt
}

func (o *options) add(command *cobra.Command, keys, pairs string) {
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringArrayVarP(&o.keys, "key", "k", nil, keys)
	flags.StringArrayVarP(&o.pairs, "context", "c", nil, pairs)
	flags.StringVarP(&o.out, "out", "o", "", "the `OUT` file; \"-\" or nothing is standard output")
	flags.BoolVarP(&o.replace, "force", "f", false, "replace an existing OUT")
	var policies []string
	for p := message.RequireEncryptRequireDecrypt; p <= message.ForbidEncryptAllowDecrypt; p++ {
		policies = append(policies, p.String())
	}
	flags.StringVar(&o.policy, "commitment-policy", policies[0], "the key commitment `POLICY`: "+strings.Join(policies, ", "))
	_ = command.RegisterFlagCompletionFunc("commitment-policy", cobra.FixedCompletions(policies, cobra.ShellCompDirectiveNoFileComp))
}

func encryptCommand() *cobra.Command {
	var o options
	var compression string
	var sign bool
	var required []string
	command := &cobra.Command{
		Use:   "encrypt [-k KEY]... [-c NAME=VALUE]... [--compress FORMAT] [-o OUT] [-f] [IN]",
		Short: "Encrypt a file or a stream",
		Long: `Encrypt makes an AWS Encryption SDK message of IN. With several keys, the first
makes the data key, and each of them can decrypt alone.

The pairs of -c, the encryption context, are authenticated but not secret: they
stand in the message as they are, and in AWS CloudTrail. A pair that --required
names is left out of the message: decrypt must be told it again.

Compressed sizes tell something of the content: do not compress when an attacker
can add text of their own to a secret and watch the size.`,
		Example: `  pikokms encrypt -k local:dev.key -o notes.enc notes.txt
  pikokms encrypt -k 'awskms://alias/backups?region=eu-west-1' -k local:escrow.key \
      -c purpose=backup --compress zstd -o backup.enc backup.tar`,
		Args:                  cobra.MaximumNArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, arguments []string) error {
			stages := []string{pikokms.CryptoTransformerName}
			if compression != "none" {
				if !slices.Contains(compress.Formats(), compression) {
					return usageError{fmt.Errorf("--compress %q; known are none, %s", compression, strings.Join(compress.Formats(), ", "))}
				}
				stages = append(stages, compression)
			}
			pairs, err := o.encryptionContext()
			if err != nil {
				return err
			}
			if _, taken := pairs[pikokms.ChainKey]; taken {
				return usageError{fmt.Errorf("-c %s: the name is kept for the record of --compress", pikokms.ChainKey)}
			}
			if err := header.CheckContext(pairs); err != nil {
				return usageError{fmt.Errorf("-c: %w", err)}
			}
			for _, name := range required {
				if _, ok := pairs[name]; !ok {
					return usageError{fmt.Errorf("--required %q: there is no such pair; give it with -c", name)}
				}
			}
			encrypter := message.Encrypter{Required: required}
			if sign {
				encrypter.Suite = header.AES256GCMHKDFSHA512CommitKeyECDSAP384
			}
			return o.run(command, arguments, encrypter, func(ctx context.Context, registry *pikokms.Registry, in io.Reader) (io.Reader, error) {
				chain, err := registry.NewChain(stages...)
				if err != nil {
					return nil, err
				}
				return chain.Transform(ctx, in, pairs)
			})
		},
	}
	o.add(command, "a `KEY` that can decrypt; may be repeated", "a pair `NAME=VALUE` of encryption context; may be repeated")
	formats := append([]string{"none"}, compress.Formats()...)
	command.Flags().StringVar(&compression, "compress", "none", "the compression `FORMAT` to apply first: "+strings.Join(formats, ", "))
	command.Flags().BoolVar(&sign, "sign", false, "add an ECDSA signature: readers who can decrypt could not have made the message")
	command.Flags().StringArrayVar(&required, "required", nil, "the `NAME` of a -c pair to authenticate but not to store; may be repeated")
	_ = command.RegisterFlagCompletionFunc("compress", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	return command
}

func decryptCommand() *cobra.Command {
	var o options
	command := &cobra.Command{
		Use:   "decrypt [-k KEY]... [-c NAME=VALUE]... [-o OUT] [-f] [IN]",
		Short: "Decrypt a file or a stream",
		Long: `Decrypt gives back what encrypt was given, decompressed. The keys are tried in
order, and only keys that are given are used, whatever the message names. Each
pair of -c must be the message's: equal to the stored one or, when the message
does not store it, the one that encrypt was told as a required pair.

On standard output each part appears once it is verified: only exit status 0
says that the whole is there.`,
		Example: `  pikokms decrypt -k local:dev.key -o notes.txt notes.enc
  pikokms decrypt -k 'awskms://alias/backups?region=eu-west-1' -c purpose=backup backup.enc | tar x`,
		Args:                  cobra.MaximumNArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, arguments []string) error {
			pairs, err := o.encryptionContext()
			if err != nil {
				return err
			}
			return o.run(command, arguments, message.Encrypter{}, func(ctx context.Context, registry *pikokms.Registry, in io.Reader) (io.Reader, error) {
				return registry.Reverse(ctx, in, pairs)
			})
		},
	}
	o.add(command, "a `KEY` to decrypt with; may be repeated", "a pair `NAME=VALUE` that the message must have; may be repeated")
	command.Flags().BoolVar(&o.pikoV2, "allow-piko-v2", false, "also read streams that Piko wrote before pikokms; of such a stream, a cut may go unseen")
	return command
}

// encryptionContext parses the pairs.
func (o *options) encryptionContext() (map[string]string, error) {
	pairs := make(map[string]string)
	for _, pair := range o.pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, usageError{fmt.Errorf("-c %q is not NAME=VALUE", pair)}
		}
		if _, ok := pairs[name]; ok {
			return nil, usageError{fmt.Errorf("-c %q is given twice", name)}
		}
		pairs[name] = value
	}
	return pairs, nil
}

// run reads IN through the stages that open sets up and writes OUT.
func (o *options) run(command *cobra.Command, arguments []string, encrypter message.Encrypter, open func(context.Context, *pikokms.Registry, io.Reader) (io.Reader, error)) error {
	ctx, encrypting := command.Context(), command.Name() == "encrypt"
	policy, err := message.ParseCommitmentPolicy(o.policy)
	if err != nil {
		return usageError{fmt.Errorf("--commitment-policy: %w", err)}
	}
	keys, err := parseKeys(o.keys)
	if err != nil {
		return err
	}
	if encrypting && len(keys) > maxKeys {
		return usageError{fmt.Errorf("%d keys; a message has at most %d", len(keys), maxKeys)}
	}

	// All that can fail without a key comes before the key service is asked.
	in, size, err := openInput(arguments)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := createOutput(ctx, o.out, o.replace)
	if err != nil {
		return err
	}
	defer out.discard()
	toTerminal := out.path == "" && term.IsTerminal(int(out.Fd()))
	if encrypting && toTerminal {
		return errors.New("refusing to write ciphertext to a terminal; use -o OUT or a pipe")
	}

	keyrings, closeKeys, err := openKeys(ctx, keys)
	if err != nil {
		return err
	}
	defer closeKeys()
	registry, err := pikokms.NewRegistry(0)
	if err != nil {
		return err
	}
	encrypter.Keyring, encrypter.Recipients, encrypter.CommitmentPolicy = keyrings[0], keyrings[1:], policy
	decrypter := message.Decrypter{Keyrings: keyrings, CommitmentPolicy: policy, AllowPikoV2: o.pikoV2}
	if err := registry.Register(pikokms.NewMessageTransformer(encrypter, decrypter)); err != nil {
		return err
	}
	source := &counter{r: in}
	result, err := open(ctx, registry, source)
	if err != nil {
		return err
	}
	var done func()
	if !toTerminal {
		done = showProgress(ctx, command.Name()+"ing", source, size)
	}
	// The writer's other methods are hidden, which would copy in smaller pieces when result has no WriteTo.
	written, err := io.CopyBuffer(struct{ io.Writer }{out}, result, make([]byte, 256<<10))
	if done != nil {
		done()
	}
	if err != nil {
		if out.path == "" && written > 0 {
			err = fmt.Errorf("%w; the output so far is not the whole", err)
		}
		return err
	}
	in.Close() // it may be what OUT replaces
	return out.commit(ctx)
}
