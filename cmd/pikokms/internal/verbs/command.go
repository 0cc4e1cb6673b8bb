// Package verbs has the tree of commands of pikokms. It is not in package main so that the
// generator of the man pages can import it.
package verbs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"piko.sh/pikokms/cmd/pikokms/internal/admin"
	"piko.sh/pikokms/cmd/pikokms/internal/config"
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/cmd/pikokms/internal/telemetry"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
	"piko.sh/pikokms/cmd/pikokms/settings"
)

const long = `Pikokms encrypts and decrypts files, folders and buckets under a key of AWS
KMS, Google Cloud KMS, Azure Key Vault, HashiCorp Vault or OpenBao, or a local
key.

What it writes are AWS Encryption SDK messages, so AWS's own SDKs and
aws-encryption-cli open them, and it opens theirs.`

// Manual explains what a KEY is, how files are read and written, and what the exit status means. It
// is a part of the man page, and topics of help.
const Manual = `
Keys:
  A KEY is a URL, to be quoted for most shells:
    awskms://alias/NAME?region=REGION    an alias of an AWS KMS key
    awskms://KEY-ID?region=REGION        a key ID
    awskms:///ARN                        the ARN of a key or an alias
    gcpkms://projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY
                                         a key of Google Cloud KMS
    azurekeyvault://VAULT/KEY            a key of Azure Key Vault, VAULT being its
                                         name, or the full host name of any vault
                                         or managed HSM
    vault://MOUNT/KEY?address=URL        a key of a transit engine of HashiCorp
                                         Vault or OpenBao
    local:///PATH                        a key file that pikokms keygen made
    local:PATH                           the same, relative to this directory
    awskms-discovery:?accounts=ACCOUNT,ACCOUNT&region=REGION
                                         to decrypt: any key of these accounts
    branchkey://TABLE/ID?key=ARN         a branch key, which an AWS KMS key wraps
    branchkey://TABLE?by=NAME&key=ARN    the one that a message's pair NAME names
    branchkey:PATH?id=ID&master=local:PATH
                                         a branch key in a file, under a key file
  An awskms URL may have &profile=NAME, &endpoint=URL and
  &grant-tokens=TOKEN,TOKEN. Credentials, and the Region where the URL names
  none, come from where other AWS tools take them. A multi-Region key (mrk-)
  also decrypts what its replicas encrypted.
  A gcpkms URL may have ?endpoint=URL. Credentials are Application Default
  Credentials.
  An azurekeyvault URL may have /VERSION, under which to encrypt, and
  ?endpoint=URL. Credentials come from where Azure's tools take them: AZURE_…
  variables, the machine's identity, az login.
  A vault URL may have &namespace=PATH. The address, if it is left out, and the
  token come from where the commands vault and bao take them: VAULT_ADDR,
  VAULT_TOKEN, vault login. Or it logs in, with &role-id=ID&secret-id-file=PATH by
  AppRole, or with &kubernetes-role=ROLE by the service account; &auth-mount=PATH
  says where the auth method is.
  A key file holds the base64 text of an AES key of 16, 24 or 32 bytes, an RSA or
  EC key in PEM, or an HPKE key, as pikokms keygen --type makes it: a public key
  encrypts, a private key decrypts. With &peer=PATH,
  a file of the public key of another party, an EC private key does both for what
  the two exchange; so does an awskms URL of a key for key agreement. A local URL
  may have
  ?namespace=NAMESPACE&name=NAME (default piko, local) and for RSA
  &padding=oaep-mgf1|pkcs1&hash=sha1|sha256|sha384|sha512 (default oaep-mgf1,
  sha256; pkcs1 only decrypts), all the same to decrypt as to encrypt.
  Of a branch key, AWS KMS is asked once an hour and not for each message; 'pikokms
  branch-keys create --help' says how to make one, and what else its URL may have.
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
  pikokms serve -k local:dev.key photos
  pikokms keys check -k 'awskms://alias/backups?region=eu-west-1'
  pikokms encrypt -k local:dev.key --in-place photos
  pikokms rewrap -k local:dev.key --to local:new.key --in-place photos

  export PIKOKMS_KEY='awskms://alias/backups?region=eu-west-1'
  tar c photos | pikokms encrypt --compress zstd | aws s3 cp - s3://bucket/photos
  aws s3 cp s3://bucket/photos - | pikokms decrypt | tar x

  pikokms branch-keys create -k 'branchkey://keys?key=ARN' --table -c tenant=42 tenant-42
  pikokms encrypt -k 'branchkey://keys/tenant-42?key=ARN' --in-place photos`

// Main runs the command line of the process, and exits.
func Main() {
	ctx, cancel := context.WithCancel(context.Background())
	ctx, stopping := work.WithStopping(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	code := make(chan int, 1)
	session := new(telemetry.Session)
	go func() { code <- run(ctx, os.Args[1:], session) }()
	select {
	case c := <-code:
		os.Exit(c)
	case <-signals:
	}
	close(stopping.Asked)
	if stopping.Finishing.Load() {
		console.Say(slog.LevelInfo, "finishing the objects that are being worked on; a second signal stops at once")
		select {
		case c := <-code:
			os.Exit(c)
		case <-signals:
		}
	}
	cancel()
	signal.Reset() // From here on a further signal kills the process.
	if stopping.Awaited.Load() {
		os.Exit(<-code)
	}
	select {
	case c := <-code:
		os.Exit(c)
	case <-time.After(250 * time.Millisecond):
		// The command waits for a pipe or a terminal, and nothing can interrupt that. Or it exports
		// the rest of its telemetry, which is waited for.
		c := fail(ctx, ctx.Err())
		session.Flush()
		os.Exit(c)
	}
}

// run runs the command line and returns the exit status.
func run(ctx context.Context, arguments []string, session *telemetry.Session) int {
	root := New()
	_ = console.SetLogFormat(logFormatOf(arguments), false) // It is one of the known formats.
	parsed := false                                         // An error while this is false is one of usage.
	root.PersistentPreRunE = func(command *cobra.Command, _ []string) error {
		if isConfigurable(command) {
			if err := config.Program.Apply(command); err != nil {
				return err
			}
		}
		quiet := command.Flags().Lookup(console.QuietFlag).Value.String() == "true"
		if err := console.SetLogFormat(command.Flags().Lookup(console.LogFormatFlag).Value.String(), quiet); err != nil {
			return err
		}
		if err := places.CheckTimeout(command.Flags()); err != nil {
			return err
		}
		parsed = true
		session.Start(ctx)
		session.TraceCommand(command)
		return nil
	}
	defer session.Flush()
	root.SetArgs(arguments)
	if len(arguments) == 0 {
		return misuse(root, errors.New("no command; there are "+commandNames(root)))
	}
	command, err := root.ExecuteContextC(ctx)
	session.EndCommand(err)
	if err == nil {
		return 0
	}
	if console.IsUsage(err) || !parsed {
		return misuse(command, err)
	}
	return fail(ctx, err)
}

// New returns the root command with its subcommands.
func New() *cobra.Command {
	root := &cobra.Command{
		Use:           "pikokms",
		Short:         "Encrypt files, folders and buckets under a key service or a local key",
		Long:          long,
		Example:       example,
		Version:       console.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("pikokms {{.Version}}\n")
	root.SetHelpFunc(showHelp)
	root.SetHelpCommand(helpCommand())
	root.PersistentFlags().String(settings.Flag, "", "take flags from this `FILE`, in TOML")
	console.ShowInShortHelp(root.PersistentFlags(), settings.Flag)
	console.AddLogFormat(root)
	console.AddQuiet(root)
	telemetry.AddNames(root)
	takeOnce(root.PersistentFlags())
	for _, command := range []*cobra.Command{
		keygenCommand(), admin.KeysCommand(), encryptCommand(), decryptCommand(), rewrapCommand(),
		verifyCommand(), catCommand(), lsCommand(), inspectCommand(), serveCommand(), admin.BranchKeysCommand(), versionCommand(),
	} {
		root.AddCommand(command)
		takeOnce(command.Flags())
		for _, below := range command.Commands() {
			takeOnce(below.Flags())
		}
	}
	return root
}

// commandNames returns the names of the commands, in a sentence.
func commandNames(root *cobra.Command) string {
	var names []string
	for _, command := range root.Commands() {
		names = append(names, command.Name())
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// isConfigurable reports whether the environment and the configuration file may set flags of a
// command. They may not for commands that complete words or only explain, which must work whatever
// is wrong with the configuration.
func isConfigurable(command *cobra.Command) bool {
	for c := command; c != nil; c = c.Parent() {
		if name := c.Name(); name == "completion" || name == "help" || name == "version" || strings.HasPrefix(name, "__") {
			return false
		}
	}
	return true
}

// takeOnce makes flags that hold one value refuse a second one, which would silently replace the
// first.
func takeOnce(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if _, several := f.Value.(pflag.SliceValue); !several {
			f.Value = &onceValue{Value: f.Value}
		}
	})
}

// onceValue is the value of a flag that may be set at most once.
type onceValue struct {
	pflag.Value
	set bool
}

func (o *onceValue) Set(text string) error {
	if o.set {
		return errors.New("it is given twice")
	}
	o.set = true
	return o.Value.Set(text)
}

// misuse reports a mistake on the command line, and returns the exit status.
func misuse(command *cobra.Command, err error) int {
	text, help := strings.TrimSpace(err.Error()), fmt.Sprintf("Run '%s --help' for usage.", command.CommandPath())
	if console.IsTextLog() {
		fmt.Fprintf(os.Stderr, "pikokms: %s\n%s\n", text, help)
	} else {
		console.Say(slog.LevelError, text, "help", help)
	}
	return 2
}

// fail reports why the work failed, and returns the exit status.
func fail(ctx context.Context, err error) int {
	text := "interrupted"
	if ctx.Err() == nil { // otherwise the interruption is why err failed
		text = console.Explain(err)
	}
	console.Say(slog.LevelError, text, console.FieldsOf(err)...)
	return 1
}

// logFormatOf returns the log format that a command line asks for. It is needed before the command
// line is parsed, so that mistakes in that are reported in the format, too.
func logFormatOf(arguments []string) string {
	format := os.Getenv(config.Program.Variable(console.LogFormatFlag))
	for i, argument := range arguments {
		if argument == "--" {
			break
		}
		if value, ok := strings.CutPrefix(argument, "--"+console.LogFormatFlag+"="); ok {
			format = value
		} else if argument == "--"+console.LogFormatFlag && i+1 < len(arguments) {
			format = arguments[i+1]
		}
	}
	if format != console.FormatJSON {
		return console.FormatText
	}
	return console.FormatJSON
}
