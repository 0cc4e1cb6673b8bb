package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/local"
)

const keyVariable = "PIKOKMS_KEY"

func keygenCommand() *cobra.Command {
	var path string
	command := &cobra.Command{
		Use:   "keygen -o FILE",
		Short: "Make a local key",
		Long: `Keygen makes a new random key in a file that only its owner can read, and says
on standard error which KEY names it. An existing file is kept. Whoever has the
file can decrypt, and without it nothing can be decrypted: keep a copy.`,
		Example:               `  pikokms keygen -o dev.key`,
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
		RunE: func(*cobra.Command, []string) error {
			if path == "" || path == "-" {
				return usageError{errors.New("keygen writes to a file; name it with -o FILE")}
			}
			if err := local.Generate(path); err != nil {
				return err
			}
			absolute, err := filepath.Abs(path)
			if err != nil {
				return err
			}
			slashed := filepath.ToSlash(absolute)
			if !strings.HasPrefix(slashed, "/") {
				slashed = "/" + slashed // before a drive letter
			}
			u := url.URL{Scheme: local.Scheme, Path: slashed}
			fmt.Fprintf(os.Stderr, "The key is in %s\nUse it as      %s\n", absolute, &u)
			return nil
		},
	}
	command.Flags().StringVarP(&path, "out", "o", "", "the `FILE` to make")
	return command
}

// opener opens a KEY whose syntax is checked.
type opener func(context.Context) (provider.Keyring, error)

// parseKeys checks the syntax of the KEYs given with -k or, without any, in the environment.
func parseKeys(given []string) ([]opener, error) {
	origin := "-k"
	if len(given) == 0 {
		origin, given = keyVariable, strings.Fields(os.Getenv(keyVariable))
	}
	if len(given) == 0 {
		return nil, usageError{fmt.Errorf("no key; name one with -k KEY or in the environment variable %s", keyVariable)}
	}
	keys := make([]opener, len(given))
	for i, text := range given {
		var err error
		if keys[i], err = parseKey(text); err != nil {
			return nil, usageError{fmt.Errorf("%s: %w", origin, err)}
		}
	}
	return keys, nil
}

func parseKey(text string) (opener, error) {
	u, err := url.Parse(text)
	if err != nil {
		hint := ""
		if strings.HasPrefix(text, "awskms://arn:") {
			hint = "; an ARN stands behind three slashes, awskms:///ARN"
		}
		return nil, fmt.Errorf("not a URL: %w%s", err, hint)
	}
	switch u.Scheme {
	case awskms.Scheme:
		c, err := awskms.ParseURL(u)
		return func(ctx context.Context) (provider.Keyring, error) { return awskms.NewProvider(ctx, c) }, err
	case awskms.DiscoveryScheme:
		c, err := awskms.ParseDiscoveryURL(u)
		return func(ctx context.Context) (provider.Keyring, error) { return awskms.NewDiscovery(ctx, c) }, err
	case local.Scheme:
		c, err := local.ParseURL(u)
		return func(context.Context) (provider.Keyring, error) { return local.NewProvider(c) }, err
	case "":
		return nil, fmt.Errorf("%q is not a URL; a key file is local:PATH, an alias awskms://alias/NAME?region=REGION", text)
	}
	return nil, fmt.Errorf("%q has the unknown scheme %q; known are %s, %s and %s", u.Redacted(), u.Scheme, awskms.Scheme, awskms.DiscoveryScheme, local.Scheme)
}

// openKeys opens all keys. The returned function zeroes those that are in memory.
func openKeys(ctx context.Context, keys []opener) (keyrings []provider.Keyring, closeKeys func(), err error) {
	closeKeys = func() {
		for _, keyring := range keyrings {
			if c, ok := keyring.(io.Closer); ok {
				_ = c.Close()
			}
		}
	}
	for _, open := range keys {
		keyring, err := open(ctx)
		if err != nil {
			closeKeys()
			return nil, nil, err
		}
		keyrings = append(keyrings, keyring)
	}
	return keyrings, closeKeys, nil
}
