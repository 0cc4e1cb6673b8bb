package command

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
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
	pikoV2         bool        // decrypt only
	names          []string    // names of pairs that a message must store
	remote         *remoteKeys // several keys of key services, to decrypt one message
	single         bool        // one message is read, not a place of many
}

const defaultTimeout = 10 * time.Second

// addKeys adds the flags of keys.
func (o *options) addKeys(command *cobra.Command, ofKeys, ofPairs string) {
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringArrayVarP(&o.keys, "key", "k", nil, ofKeys)
	flags.StringArrayVarP(&o.pairs, "context", "c", nil, ofPairs)
	var policies []string
	for p := message.RequireEncryptRequireDecrypt; p <= message.ForbidEncryptAllowDecrypt; p++ {
		policies = append(policies, p.String())
	}
	flags.StringVar(&o.policy, "commitment-policy", policies[0], "the key commitment `POLICY`: "+strings.Join(policies, ", "))
	flags.DurationVar(&o.timeout, "kms-timeout", defaultTimeout, "how long to wait for each answer of a key service, retries included")
	_ = command.RegisterFlagCompletionFunc("commitment-policy", cobra.FixedCompletions(policies, cobra.ShellCompDirectiveNoFileComp))
}

// addOutput adds the flags that say where a result goes.
func (o *options) addOutput(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVarP(&o.out, "out", "o", "", "the `OUT` file, folder or bucket; \"-\" or nothing is standard output")
	flags.BoolVarP(&o.replace, "force", "f", false, "replace an existing OUT")
	flags.BoolVar(&o.encode, "encode", false, "write OUT as base64")
	flags.BoolVar(&o.decode, "decode", false, "read IN as base64")
}

// addReading adds the flags that say what may be decrypted.
func (o *options) addReading(command *cobra.Command) {
	flags := command.Flags()
	flags.IntVar(&o.limits.MaxEncryptedDataKeys, "max-keys", header.DefaultMaxEncryptedDataKeys, "the most data keys that a message may have")
	flags.IntVar(&o.limits.MaxPairs, "max-pairs", header.DefaultMaxPairs, "the most pairs of encryption context that a message may have")
	flags.IntVar(&o.limits.MaxAttempts, "max-attempts", header.DefaultMaxAttempts, "the most data keys of a message that the keys are tried on")
	flags.BoolVar(&o.pikoV2, "allow-piko-v2", false, "also read streams that Piko wrote before pikokms, in which a cut may go unnoticed")
}

const (
	keyToDecrypt  = "a `KEY` to decrypt with; may be repeated"
	pairToDecrypt = "a pair `NAME=VALUE` that a message must have, or the NAME of one; may be repeated"
)

func encryptCommand() *cobra.Command {
	var o options
	var b bulk
	var compression string
	var sign bool
	var required []string
	command := &cobra.Command{
		Use:   "encrypt [-k KEY]... [-c NAME=VALUE]... [--compress FORMAT] [--in-place | -o OUT] [-f] [IN]...",
		Short: "Encrypt a file or a stream, a folder or a bucket",
		Long: `Encrypt makes an AWS Encryption SDK message of IN. With several keys, each
of them wraps the data key, and can decrypt alone.

The pairs that -c states, the encryption context, are authenticated but not
secret: the message and AWS CloudTrail show them. The message requires a pair
that --required names, but does not store it: decrypt must state it again.

The size of compressed data tells something about its content. Do not compress
when an attacker can add text to a secret and see the size.

IN may be a PLACE: then each object of it is encrypted to the folder or bucket
OUT, or in place, with its metadata. What is encrypted already is skipped, so that
the same command line goes on where it was interrupted. Several INs go to a folder
or a bucket, too: a file by its name, what a folder holds below the folder's. What
begins as a message and has no whole header fails: --malformed-as-plaintext encrypts
binary files that happen to begin so. Of one file or stream, what is encrypted
already is refused.`,
		Example: `  pikokms encrypt -k local:dev.key -o photos.enc --suffix .enc photos
  pikokms encrypt -k local:dev.key --in-place --include '*.jpg' photos
  pikokms encrypt -k local:dev.key -o encrypted *.txt
  pikokms encrypt -k local:dev.key -o notes.enc notes.txt
  pikokms encrypt -k 'awskms://alias/backups?region=eu-west-1' -k local:escrow.key \
      -c purpose=backup --compress zstd -o backup.enc backup.tar`,
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, arguments []string) error {
			transformers := []string{pikokms.CryptoTransformerName}
			if compression != "none" {
				if !slices.Contains(compress.Formats(), compression) {
					return usage(fmt.Errorf("--compress %q; known are none, %s", compression, strings.Join(compress.Formats(), ", ")))
				}
				transformers = append(transformers, compression)
			}
			pairs, err := o.encryptionContext()
			if err != nil {
				return err
			}
			for name := range pairs {
				// A host that binds objects to their names requires these two.
				bound := (name == pikokms.BucketKey || name == pikokms.ObjectKey) && slices.Contains(required, name)
				if strings.HasPrefix(name, provider.ReservedPrefix) && !bound {
					return usage(fmt.Errorf("-c %s: names that begin with %s are kept for what pikokms itself says of a message", name, provider.ReservedPrefix))
				}
			}
			if err := header.CheckContext(pairs); err != nil {
				return usage(fmt.Errorf("-c: %w", err))
			}
			for _, name := range required {
				if _, ok := pairs[name]; !ok {
					return usage(fmt.Errorf("--required %q: there is no such pair; give it with -c", name))
				}
			}
			encrypter := message.Encrypter{Required: required}
			if sign {
				encrypter.Suite = header.AES256GCMHKDFSHA512CommitKeyECDSAP384
			}
			if b.isWanted(o.out, arguments) {
				return encryptEach(command.Context(), &b, &o, arguments, encrypter, transformers, pairs)
			}
			return runStream(&o, command, arguments, encrypter, func(ctx context.Context, registry *pikokms.Registry, in io.Reader) (io.Reader, error) {
				chain, err := registry.NewChain(transformers...)
				if err != nil {
					return nil, err
				}
				content, err := plaintext(ctx, bufio.NewReader(in), b.malformed)
				if err != nil {
					return nil, err
				}
				return chain.Transform(ctx, content, pairs)
			})
		},
	}
	o.addKeys(command, "a `KEY` that can decrypt; may be repeated", "a pair `NAME=VALUE` of encryption context; may be repeated")
	o.addOutput(command)
	formats := append([]string{"none"}, compress.Formats()...)
	command.Flags().StringVar(&compression, "compress", "none", "the compression `FORMAT` to apply first: "+strings.Join(formats, ", "))
	command.Flags().BoolVar(&sign, "sign", false, "add an ECDSA signature: those who can only decrypt can't have made the message")
	command.Flags().StringArrayVar(&required, "required", nil, "the `NAME` of a -c pair that the message requires and does not store; may be repeated")
	b.add(command, "is added to")
	command.Flags().BoolVar(&b.malformed, "malformed-as-plaintext", false, "encrypt what begins as a message, but has no whole header")
	_ = command.RegisterFlagCompletionFunc("compress", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	return command
}

func decryptCommand() *cobra.Command {
	var o options
	var b bulk
	command := &cobra.Command{
		Use:   "decrypt [-k KEY]... [-c NAME=VALUE]... [--in-place | -o OUT] [-f] [IN]...",
		Short: "Decrypt a file or a stream, a folder or a bucket",
		Long: `Decrypt gives back what encrypt was given, decompressed. The keys are tried in
order, local ones first, and only keys that are given are used, whatever the
message names. A key that can't be reached matters only if no other key opens
the message.

Each pair that -c states must be one of the message's, either stored in it or
required by it. With -c NAME, without a value, the message must store a pair of
that name. All pairs that a message requires must be stated.

On standard output each part appears once it is verified. Only exit status 0
says that the output is whole.

IN may be a PLACE: then each object of it is decrypted to the folder or bucket
OUT, or in place, with its metadata. Several INs go there, too: a file by its name,
what a folder holds below the folder's.`,
		Example: `  pikokms decrypt -k local:dev.key -o photos.dec --suffix .enc photos.enc
  pikokms decrypt -k local:dev.key -o notes.txt notes.enc
  pikokms decrypt -k 'awskms://alias/backups?region=eu-west-1' -c purpose=backup backup.enc | tar x`,
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, arguments []string) error {
			if b.isWanted(o.out, arguments) {
				return decryptEach(command.Context(), &b, &o, arguments)
			}
			pairs, err := o.requiredContext()
			if err != nil {
				return err
			}
			return runStream(&o, command, arguments, message.Encrypter{}, func(ctx context.Context, registry *pikokms.Registry, in io.Reader) (io.Reader, error) {
				return registry.Reverse(ctx, in, pairs)
			})
		},
	}
	o.addKeys(command, keyToDecrypt, pairToDecrypt)
	o.addOutput(command)
	o.addReading(command)
	b.add(command, "is taken off")
	addPlain(command, &b.plain)
	return command
}

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
	return parsePairs(o.pairs)
}

// parsePairs parses the pairs of -c.
func parsePairs(given []string) (map[string]string, error) {
	pairs := make(map[string]string)
	for _, pair := range given {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, usage(fmt.Errorf("-c %q is not NAME=VALUE", pair))
		}
		if _, ok := pairs[name]; ok {
			return nil, usage(fmt.Errorf("-c %q is given twice", name))
		}
		pairs[name] = value
	}
	return pairs, nil
}

// runStream reads IN, transforms it by the reader that open returns, and writes OUT.
func runStream(o *options, command *cobra.Command, arguments []string, encrypter message.Encrypter, open func(context.Context, *pikokms.Registry, io.Reader) (io.Reader, error)) (err error) {
	encrypting, name := command.Name() == "encrypt", "standard input"
	if len(arguments) > 0 {
		name = arguments[0]
	}
	ctx, end := traceObject(command.Context(), 0, name, -1)
	defer func() { end(command.Name()+"ed", err) }()
	ks, err := o.check(encrypting)
	if err != nil {
		return err
	}

	// What can fail without a key is done before the key service is asked.
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
	if encrypting && toTerminal && !o.encode {
		return errors.New("refusing to write ciphertext to a terminal; use -o OUT, a pipe or --encode")
	}

	defer func() {
		if o.remote != nil {
			_ = o.remote.Close()
		}
		closeAll(ks)
	}()
	o.single = true
	if encrypting {
		if err := openAll(ctx, ks); err != nil {
			return err
		}
	}
	registry, err := o.registry(encrypting, ks, encrypter)
	if err != nil {
		return err
	}
	counted := &counter{r: in}
	source := io.Reader(counted)
	if o.decode {
		source = newDecoder(source)
	}
	result, err := open(ctx, registry, source)
	if err != nil {
		return err
	}
	var done func()
	if !toTerminal {
		done = showProgress(command.Name()+"ing", counted.n.Load, size)
	}
	written, err := o.copy(out, result)
	if done != nil {
		done()
	}
	if err != nil {
		if out.path == "" {
			return incomplete(written, err)
		}
		return err
	}
	in.Close() // Windows does not replace an open file, and OUT may replace IN.
	return out.commit(ctx)
}

// check checks the flags and returns the keys.
func (o *options) check(encrypting bool) ([]*key, error) {
	if !encrypting {
		for _, limit := range []struct {
			flag string
			n    int
		}{{"--max-keys", o.limits.MaxEncryptedDataKeys}, {"--max-pairs", o.limits.MaxPairs}, {"--max-attempts", o.limits.MaxAttempts}} {
			if limit.n < 1 || limit.n > math.MaxUint16 {
				return nil, usage(fmt.Errorf("%s is %d; give 1 to %d", limit.flag, limit.n, math.MaxUint16))
			}
		}
	}
	if o.timeout <= 0 {
		return nil, usage(fmt.Errorf("--kms-timeout is %v; give a time such as 10s", o.timeout))
	}
	ks, err := parseKeys(o.keys, o.timeout, encrypting)
	if err != nil {
		return nil, err
	}
	if encrypting && len(ks) > header.DefaultMaxEncryptedDataKeys {
		return nil, usage(fmt.Errorf("%d keys; a message has at most %d", len(ks), header.DefaultMaxEncryptedDataKeys))
	}
	return ks, nil
}

// registry returns a registry of all transformers, with one that encrypts and decrypts under keys.
func (o *options) registry(encrypting bool, ks []*key, encrypter message.Encrypter) (*pikokms.Registry, error) {
	policy, err := message.ParseCommitmentPolicy(o.policy)
	if err != nil {
		return nil, usage(fmt.Errorf("--commitment-policy: %w", err))
	}
	encrypter.CommitmentPolicy, encrypter.Keyring = policy, ks[0]
	for _, k := range ks[1:] {
		encrypter.Recipients = append(encrypter.Recipients, k)
	}
	decrypter := message.Decrypter{Keyrings: keyringsOf(ks), CommitmentPolicy: policy, AllowPikoV2: o.pikoV2, Limits: o.limits}
	// A stream of Piko's has one data key, so there is nothing to ask several keys about.
	if here, remote := forDecryption(ks); len(remote) > 1 && o.single && !o.pikoV2 {
		o.remote = newRemoteKeys(remote, o.limits)
		decrypter.Keyrings, decrypter.Accept = append(keyringsOf(here), o.remote), o.remote.accept
	}
	registry, err := pikokms.NewRegistry(0)
	if err != nil {
		return nil, err
	}
	// Encrypt writes objects, which hosts and buckets read too. Decrypt reads any message.
	transformer := pikokms.NewMessageTransformer(encrypter, decrypter)
	if encrypting {
		transformer = pikokms.NewCryptoTransformer(encrypter, decrypter)
	}
	return registry, registry.Register(demanding{transformer, o.names})
}

// demanding is a transformer that decrypts only messages that store pairs with these names.
type demanding struct {
	*pikokms.CryptoTransformer
	names []string
}

// Reverse implements pikokms.Transformer.
func (d demanding) Reverse(ctx context.Context, input io.Reader, pairs any) (io.Reader, error) {
	r, err := d.CryptoTransformer.Reverse(ctx, input, pairs)
	if err != nil {
		return nil, err
	}
	return r, d.check(r.(*message.DecryptReader).EncryptionContext())
}

// Open implements pikokms.SeekableTransformer.
func (d demanding) Open(ctx context.Context, stored pikokms.SizedReaderAt, pairs any) (pikokms.SizedReaderAt, error) {
	r, err := d.CryptoTransformer.Open(ctx, stored, pairs)
	if err != nil {
		return nil, err
	}
	return r, d.check(r.(*message.DecryptReaderAt).EncryptionContext())
}

func (d demanding) check(stored map[string]string) error {
	for _, name := range d.names {
		if _, ok := stored[name]; !ok {
			return fmt.Errorf("%w: the message has no pair %q, which -c asks for", provider.ErrContextMismatch, name)
		}
	}
	return nil
}

// copy writes result to out, as base64 text if --encode says so.
func (o *options) copy(out *output, result io.Reader) (written int64, err error) {
	// Without this, io.CopyBuffer would use out's ReadFrom, which copies in smaller pieces.
	dst := struct{ io.Writer }{out}
	buffer := make([]byte, 256<<10)
	if !o.encode {
		return io.CopyBuffer(dst, result, buffer)
	}
	encoder := base64.NewEncoder(base64.StdEncoding, dst)
	if written, err = io.CopyBuffer(encoder, result, buffer); err != nil {
		return written, err
	}
	if err := encoder.Close(); err != nil {
		return written, err
	}
	_, err = io.WriteString(dst, "\n")
	return written, err
}

// decoder decodes the base64 text of its source. It returns the source's own errors as they are.
type decoder struct {
	source *failing
	text   io.Reader
}

func newDecoder(source io.Reader) *decoder {
	f := &failing{r: source}
	return &decoder{f, base64.NewDecoder(base64.StdEncoding, f)}
}

// Read implements io.Reader.
func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.text.Read(p)
	_, corrupt := errors.AsType[base64.CorruptInputError](err)
	switch {
	case err == nil || err == io.EOF && d.source.err == nil:
		return n, err
	case d.source.err != nil:
		return n, d.source.err
	case corrupt || err == io.ErrUnexpectedEOF:
		return n, fmt.Errorf("--decode: IN is not whole base64 text: %w", err)
	}
	return n, err
}

// failing remembers the first error of its reader.
type failing struct {
	r   io.Reader
	err error // never io.EOF
}

// Read implements io.Reader.
func (f *failing) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.r.Read(p)
	if err != io.EOF {
		f.err = err
	}
	return n, err
}
