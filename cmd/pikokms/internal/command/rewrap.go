package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/pikov2"
	"piko.sh/pikokms/provider"
)

// rewrapCommand moves messages to other keys.
func rewrapCommand() *cobra.Command {
	var o options
	var b bulk
	var to []string
	command := &cobra.Command{
		Use:   "rewrap [-k KEY]... --to KEY... [-c NAME=VALUE]... {--in-place | -o OUT} PLACE",
		Short: "Move files, folders and buckets to other keys",
		Long: `Rewrap decrypts each object with the keys of -k, verifies it, and encrypts it anew
under those of --to, in the current format, with the same encryption context. An
object is replaced in one step, when the whole of it is verified. In a folder and
in S3, GCS and Azure one that was changed meanwhile is left as it is, and named.

In place, what is under the keys of --to already is skipped, so that the same
command line goes on where it was interrupted.

Messages without key commitment need --commitment-policy. A compressed stream of
Piko's old format stays compressed, and nothing then says so.`,
		Example: `  pikokms rewrap -k local:old.key --to local:dev.key --in-place photos
  pikokms rewrap -k local:dev.key --to 'awskms://alias/backups?region=eu-west-1' \
      --in-place --dry-run 's3://bucket/backups/?region=eu-west-1'`,
		Args:                  cobra.ExactArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, arguments []string) error {
			ctx := command.Context()
			if err := b.check(&o); err != nil {
				return err
			}
			skipPlain, err := parsePlain(b.plain)
			if err != nil {
				return err
			}
			if len(to) == 0 {
				return usageError{errors.New("no key to move to; name one with --to KEY")}
			}
			r, err := o.reading()
			if err != nil {
				return err
			}
			defer closeAll(r.keys)
			m, err := o.moving(ctx, r, to)
			if err != nil {
				return err
			}
			defer closeAll(m.keys)
			return b.run(ctx, &o, arguments, append(m.keys, r.keys...), job{
				done:   "rewrapped",
				rename: func(key string) (string, error) { return key, nil },
				judge: func(ctx context.Context, s *source) error {
					if err := s.refusePlain(skipPlain); err != nil || !b.inPlace {
						return err
					}
					return m.judge(ctx, s)
				},
				convert: m.convert,
			})
		},
	}
	o.addKeys(command, keyToDecrypt, pairToDecrypt)
	command.Flags().StringArrayVar(&to, "to", nil, "a `KEY` to encrypt under; may be repeated")
	command.Flags().StringVarP(&o.out, "out", "o", "", "the `OUT` file, folder or bucket")
	command.Flags().BoolVarP(&o.replace, "force", "f", false, "replace what exists in OUT")
	b.add(command, "")
	addPlain(command, &b.plain)
	o.addReading(command)
	return command
}

// moving is what moves messages to other keys.
type moving struct {
	*reading
	keys      []*key
	decrypter message.Decrypter
	encrypter message.Encrypter
	objects   *pikokms.CryptoTransformer // writes what hosts read
	written   *header.Header             // of a message under the new keys
	names     []string
}

// moving opens the keys to move to, which are asked for one data key, with the stated pairs: policies
// may depend on them.
func (o *options) moving(ctx context.Context, r *reading, to []string) (*moving, error) {
	keys, err := parseKeys(to, o.timeout, true)
	if err != nil {
		return nil, err
	}
	if len(keys) > header.DefaultMaxEncryptedDataKeys {
		return nil, usageError{fmt.Errorf("%d keys; a message has at most %d", len(keys), header.DefaultMaxEncryptedDataKeys)}
	}
	if err := openAll(ctx, keys); err != nil {
		closeAll(keys)
		return nil, err
	}
	policy, err := message.ParseCommitmentPolicy(o.policy)
	if err != nil {
		closeAll(keys)
		return nil, usageError{fmt.Errorf("--commitment-policy: %w", err)}
	}
	m := &moving{reading: r, keys: keys, names: o.names}
	m.encrypter = message.Encrypter{CommitmentPolicy: policy, Keyring: keys[0]}
	for _, k := range keys[1:] {
		m.encrypter.Recipients = append(m.encrypter.Recipients, k)
	}
	m.decrypter = message.Decrypter{Keyrings: keyringsOf(r.keys), CommitmentPolicy: policy, AllowPikoV2: o.pikoV2, Limits: o.limits}
	m.objects = pikokms.NewCryptoTransformer(m.encrypter, m.decrypter)
	sample, err := m.encrypter.NewReader(ctx, strings.NewReader(""), r.pairs)
	if err != nil {
		closeAll(keys)
		return nil, err
	}
	m.written = sample.Header()
	return m, nil
}

// judge returns why an object is left alone: it is as it would be after the move.
func (m *moving) judge(ctx context.Context, s *source) error {
	start, err := s.Peek(peeked)
	if err != nil && err != io.EOF {
		return err
	}
	h, _, err := header.Parse(start, m.decrypter.Limits)
	if err != nil || h.Suite != m.written.Suite || len(h.EncryptedDataKeys) != len(m.written.EncryptedDataKeys) {
		return nil // what is wrong with it, decryption says
	}
	for i, k := range h.EncryptedDataKeys {
		under := m.written.EncryptedDataKeys[i]
		if k.ProviderID != under.ProviderID || message.KeyName(k) != message.KeyName(under) {
			return nil
		}
	}
	// Two key files may have one name. To try a key in memory costs nothing.
	for _, k := range m.keys {
		if k.isRemote() {
			continue
		}
		d := m.decrypter
		d.Keyrings = []provider.Keyring{k}
		r, err := d.NewReader(ctx, bytes.NewReader(start), m.pairs)
		if err != nil {
			return nil
		}
		_ = r.Close()
	}
	return skipped("it is under these keys already")
}

// convert returns an object under the new keys.
func (m *moving) convert(ctx context.Context, s *source) (io.Reader, error) {
	start, err := s.start()
	if err != nil {
		return nil, err
	}
	if pikov2.Sniff(start) && m.decrypter.AllowPikoV2 {
		content, err := m.decrypter.NewReader(ctx, s, nil)
		if err != nil {
			return nil, err
		}
		return m.objects.Transform(ctx, content, nil)
	}
	renewed, err := message.Rewrap(ctx, s, &m.decrypter, &m.encrypter, m.pairs)
	if err != nil {
		return nil, err
	}
	return renewed, demanding{names: m.names}.check(renewed.Header().EncryptionContext)
}
