// Package command is the code of the command pikokms, with a file for each of its subcommands'
// jobs. It is no part of package main so that the generator of its man pages can import it.
package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

const long = `Pikokms encrypts and decrypts files, folders and buckets under a key of AWS KMS
or a local key.

What it writes are AWS Encryption SDK messages, so AWS's own SDKs and
aws-encryption-cli open them, and it opens theirs.`

// Manual says what a KEY is, how files are read and written, and what the exit status means. It is
// a part of the usage of every command that takes keys, and of the man page.
const Manual = `
Keys:
  A KEY is a URL, to be quoted for most shells:
    awskms://alias/NAME?region=REGION    an alias of an AWS KMS key
    awskms://KEY-ID?region=REGION        a key ID
    awskms:///ARN                        the ARN of a key or an alias
    local:///PATH                        a key file that pikokms keygen made
    local:PATH                           the same, relative to this directory
    awskms-discovery:?accounts=ACCOUNT,ACCOUNT&region=REGION
                                         to decrypt: any key of these accounts
  An awskms URL may have &profile=NAME, &endpoint=URL and
  &grant-tokens=TOKEN,TOKEN. Credentials, and the Region where the URL names
  none, come from where other AWS tools take them. A multi-Region key (mrk-)
  also decrypts what its replicas encrypted.
  A key file holds the base64 text of an AES key of 16, 24 or 32 bytes, or an RSA
  key in PEM: a public key encrypts, a private key decrypts. A local URL may have
  ?namespace=NAMESPACE&name=NAME (default piko, local) and for RSA
  &padding=oaep-mgf1|pkcs1&hash=sha1|sha256|sha384|sha512 (default oaep-mgf1,
  sha256; pkcs1 only decrypts), all the same to decrypt as to encrypt.
  Without -k, keys are taken from the environment variable PIKOKMS_KEY: one URL,
  or several separated by spaces or newlines (a space within one is %20).

Files:
  IN is standard input when it is left out or "-", OUT is standard output.
  OUT appears under its name only when it is whole, readable by its owner alone
  (mode 0600). An existing OUT is kept unless -f says to replace it; it may then
  be IN itself. A device or a named pipe is written to directly.

Exit status:
  0  done
  1  failed or interrupted; OUT was not made or changed. What reached standard
     output before is not the whole result.
  2  wrong usage
`

const example = `  pikokms keygen -o dev.key
  pikokms encrypt -k local:dev.key -c tenant=42 -o report.pdf.enc report.pdf
  pikokms decrypt -k local:dev.key -c tenant=42 -o copy.pdf report.pdf.enc
  pikokms inspect report.pdf.enc
  pikokms verify -k local:dev.key report.pdf.enc
  pikokms cat -k local:dev.key --range 0-99 report.pdf.enc
  pikokms ls .
  pikokms encrypt -k local:dev.key --in-place photos
  pikokms rewrap -k local:dev.key --to local:new.key --in-place photos

  export PIKOKMS_KEY='awskms://alias/backups?region=eu-west-1'
  tar c photos | pikokms encrypt --compress zstd | aws s3 cp - s3://bucket/photos
  aws s3 cp s3://bucket/photos - | pikokms decrypt | tar x`

// Main runs the command line of the process, and exits.
func Main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := make(chan int, 1)
	go func() { code <- run(ctx, os.Args[1:]) }()
	select {
	case c := <-code:
		os.Exit(c)
	case <-ctx.Done():
	}
	stop() // From here on a second signal kills the process.
	select {
	case c := <-code:
		os.Exit(c)
	case <-time.After(250 * time.Millisecond):
		// The command waits for a pipe or a terminal, and nothing can interrupt that.
		os.Exit(fail(ctx, ctx.Err()))
	}
}

// run runs the command line and returns the exit status.
func run(ctx context.Context, arguments []string) int {
	root := New()
	parsed := false // What cobra refuses before this is true is wrong usage.
	root.PersistentPreRun = func(*cobra.Command, []string) { parsed = true }
	root.SetArgs(arguments)
	if len(arguments) == 0 {
		return misuse(root, errors.New("no command; there are keygen, encrypt, decrypt, rewrap, verify, cat, ls and inspect"))
	}
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if _, ok := errors.AsType[usageError](err); ok || !parsed {
		return misuse(command, err)
	}
	return fail(ctx, err)
}

// New returns the root command with its subcommands.
func New() *cobra.Command {
	root := &cobra.Command{
		Use:           "pikokms",
		Short:         "Encrypt files, folders and buckets under AWS KMS or a local key",
		Long:          long,
		Example:       example,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("pikokms {{.Version}}\n")
	root.SetUsageTemplate(root.UsageTemplate() +
		`{{if or (not .HasParent) (.Flags.Lookup "include")}}` + Places + `{{end}}` +
		`{{if or (not .HasParent) (.Flags.Lookup "key")}}` + Manual + `{{end}}`)
	root.AddCommand(keygenCommand(), encryptCommand(), decryptCommand(), rewrapCommand(), verifyCommand(), catCommand(), lsCommand(), inspectCommand())
	for _, command := range root.Commands() {
		takeOnce(command.Flags())
	}
	return root
}

// takeOnce makes flags that hold one value refuse a second one, which would silently replace the
// first.
func takeOnce(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if _, several := f.Value.(pflag.SliceValue); !several {
			f.Value = &once{Value: f.Value}
		}
	})
}

// once is the value of a flag that may be set at most once.
type once struct {
	pflag.Value
	set bool
}

// Set implements pflag.Value.
func (o *once) Set(text string) error {
	if o.set {
		return errors.New("it is given twice")
	}
	o.set = true
	return o.Value.Set(text)
}

// usageError is a mistake on the command line.
type usageError struct{ error }

// misuse reports a mistake on the command line, and returns the exit status.
func misuse(command *cobra.Command, err error) int {
	fmt.Fprintf(os.Stderr, "pikokms: %s\nRun '%s --help' for usage.\n", strings.TrimSpace(err.Error()), command.CommandPath())
	return 2
}

// limitFlags are the flags of decrypt that set the limits of package header.
var limitFlags = map[string]string{"MaxPairs": "--max-pairs", "MaxEncryptedDataKeys": "--max-keys", "MaxAttempts": "--max-attempts"}

// fail reports why the work failed, and returns the exit status.
func fail(ctx context.Context, err error) int {
	text := "interrupted"
	if ctx.Err() == nil { // else whatever failed, failed for that
		text = explain(err)
	}
	fmt.Fprintf(os.Stderr, "pikokms: %s\n", text)
	return 1
}

// explain returns an error's text in one line, with the flag that would have helped.
func explain(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // an object's name could steer a terminal
			return unicode.ReplacementChar
		}
		return r
	}, text)
	switch {
	case errors.Is(err, message.ErrCommitmentPolicy):
		text += "; --commitment-policy sets the policy"
	case errors.Is(err, message.ErrPikoV2):
		text += "; --allow-piko-v2 sets it"
	case errors.Is(err, provider.ErrUntrustedKey):
		text += "; -k says which keys to use"
	}
	if limit, ok := errors.AsType[*header.LimitError](err); ok {
		text = strings.ReplaceAll(text, fmt.Sprintf(" (%s sets the limit)", limit.Option), "")
		if flag := limitFlags[limit.Limit]; flag != "" && limit.Option != "" {
			text += "; " + flag + " sets the limit"
		}
	}
	return text
}
