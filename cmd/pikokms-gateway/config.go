package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"piko.sh/pikokms/cmd/pikokms/settings"
)

const usage = `Pikokms-gateway serves S3 and stores what it is given encrypted, in a folder or in
another S3. Programs are encrypted by their endpoint, and read through it again.
Each stored object is one message of the AWS Encryption SDK, which pikokms and
AWS's own tools open.

Usage:
  pikokms-gateway -k KEY... (--folder DIR | --upstream URL) [flags]

  pikokms-gateway -k local:dev.key --folder data
  pikokms-gateway -k 'awskms://alias/data?region=eu-west-1' \
      --upstream 's3://bucket?region=eu-west-1' --access-key-id client
  pikokms-gateway --upstream 's3://?region=eu-west-1' --access-key-id client \
      --key-for 'uploads/{tenant}/=branchkey://keys?by=tenant&key=ARN' \
      --key-for 'uploads/logs/=awskms://alias/logs?region=eu-west-1'

A KEY is a URL, as for the command pikokms, whose help has them all, such as
  local:PATH, awskms://alias/NAME?region=REGION, branchkey://TABLE/ID?key=ARN

Flags:
`

const manual = `
Configuration:
  A flag that the command line does not have is taken from the environment:
  --access-key-id from PIKOKMS_GATEWAY_ACCESS_KEY_ID, and so on. Several values of
  one flag are separated by newlines, KEYs also by spaces. The secret access key
  that clients need may stand in PIKOKMS_GATEWAY_SECRET_ACCESS_KEY. What the
  environment does not have either is taken from a file in TOML, the one that
  --config names or else pikokms-gateway.toml in the user's configuration folder:
    key = "awskms://alias/data?region=eu-west-1"
    upstream = "s3://bucket?region=eu-west-1"
    key-for = ["bucket/{tenant}/=branchkey://keys?by=tenant&key=ARN"]
  Traces and metrics go where OpenTelemetry's variables OTEL_… say, and nowhere
  without them. Credentials of the S3 behind and of key services come from where
  AWS's tools take them.
`

// config holds the settings of the command line, the environment and the configuration file.
type config struct {
	keys            []string
	keysFor         []string
	folder          string
	upstream        string
	listen          string
	health          string
	region          string
	tlsCert, tlsKey string
	accessKeyID     string
	secretFile      string
	bindNames       bool
	allowPlaintext  bool
	dataKeyCache    time.Duration
	stopTimeout     time.Duration
	logFormat       string
	version         bool
}

const secretVariable = "PIKOKMS_GATEWAY_SECRET_ACCESS_KEY"

var program = settings.Program{Prefix: "PIKOKMS_GATEWAY_", File: "pikokms-gateway.toml", Others: []string{secretVariable}}

// configure reads the command line, the environment and the configuration file.
func configure(args []string) (*config, error) {
	command := &cobra.Command{Use: "pikokms-gateway"}
	c, flags := new(config), command.Flags()
	flags.SortFlags = false
	flags.StringArrayVarP(&c.keys, "key", "k", nil, "the `KEY` to encrypt under; further ones only decrypt")
	flags.StringArrayVar(&c.keysFor, "key-for", nil, "the KEY of a bucket, or of a prefix in it: `BUCKET/PREFIX=KEY`; the\nlongest that fits is taken, and further ones of the same only decrypt;\na bucket or folder written {NAME} is any, and the value of the pair\nNAME, by which branchkey://TABLE?by=NAME&key=ARN finds the key")
	flags.StringVar(&c.folder, "folder", "", "store in this `DIR`, whose folders are the buckets")
	flags.StringVar(&c.upstream, "upstream", "", "store in the S3 of this `URL`: s3://BUCKET, or s3:// for all buckets,\nwith ?region=REGION&endpoint=URL&profile=NAME")
	flags.StringVar(&c.listen, "listen", "127.0.0.1:7070", "the `HOST:PORT` to listen on")
	flags.StringVar(&c.accessKeyID, "access-key-id", "", "the access key `ID` that clients need; without one, credentials are\nmade and printed")
	flags.StringVar(&c.secretFile, "secret-access-key-file", "", "the `FILE` that holds the secret access key that clients need")
	flags.StringVar(&c.tlsCert, "tls-cert", "", "serve HTTPS with the certificates in this PEM `FILE`, read again on SIGHUP")
	flags.StringVar(&c.tlsKey, "tls-key", "", "the `FILE` of the certificate's private key")
	flags.StringVar(&c.region, "region", "us-east-1", "the `REGION` that clients sign for")
	flags.StringVar(&c.health, "health", "", "also answer /livez and /readyz on this `HOST:PORT`")
	flags.BoolVar(&c.bindNames, "bind-object-names", false, "bind each object to its bucket and name, so that none passes as another")
	flags.BoolVar(&c.allowPlaintext, "allow-plaintext", false, "also serve objects that are not encrypted, while such are left")
	flags.DurationVar(&c.dataKeyCache, "data-key-cache", 0, "use a data key for several objects and reads for this `TIME`; 0 asks the\nkey service each time")
	flags.DurationVar(&c.stopTimeout, "stop-timeout", 25*time.Second, "how long requests under way have when the gateway is stopped")
	flags.StringVar(&c.logFormat, "log-format", "text", "log as this `FORMAT`: text or json")
	flags.String(settings.Flag, "", "the configuration `FILE`")
	flags.BoolVar(&c.version, "version", false, "print the version")
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage, flags.FlagUsagesWrapped(0), manual) }
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("%q is no flag; see pikokms-gateway -h", flags.Arg(0))
	}
	if err := program.Apply(command); err != nil || c.version {
		return c, err
	}
	return c, c.check()
}

func (c *config) check() error {
	switch {
	case (c.folder == "") == (c.upstream == ""):
		return errors.New("give one of --folder and --upstream; see pikokms-gateway -h")
	case len(c.keys) == 0 && len(c.keysFor) == 0:
		return errors.New("no key; name one with -k KEY or --key-for BUCKET/PREFIX=KEY")
	case (c.tlsCert == "") != (c.tlsKey == ""):
		return errors.New("--tls-cert and --tls-key go together")
	case c.dataKeyCache < 0:
		return fmt.Errorf("--data-key-cache is %v; it cannot be negative", c.dataKeyCache)
	case c.stopTimeout < 0:
		return fmt.Errorf("--stop-timeout is %v; it cannot be negative", c.stopTimeout)
	}
	return nil
}
