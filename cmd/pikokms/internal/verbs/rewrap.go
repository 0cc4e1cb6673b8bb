package verbs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/cmd/pikokms/internal/look"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/pikov2"
)

// rewrapCommand moves messages to other keys.
func rewrapCommand() *cobra.Command {
	var o options
	var b work.Bulk
	var to []string
	command := &cobra.Command{
		Use:   "rewrap [-k KEY]... --to KEY... [-c NAME=VALUE]... {--in-place | -o OUT} PLACE...",
		Short: "Move files, folders and buckets to other keys",
		Long: `Rewrap decrypts each object with the keys of -k, verifies it, and encrypts it anew
under those of --to, in the current format, with the same encryption context. An
object is replaced in one step, when the whole of it is verified. In a folder and
in S3, GCS and Azure one that was changed meanwhile is left as it is, and named.

In place, what is under the keys of --to already is skipped, so that the same
command line goes on where it was interrupted. What is under an older version of
a branch key, or of a key of Google Cloud KMS, Azure, Vault or OpenBao, is moved
to the newest one; -k and --to may then be the same KEY. An RSA public key can't
tell what is under it, so all is moved; --resume goes on where it was.

What AWS's S3 Encryption Client wrote is moved, too: it becomes such a message, and
the client's metadata and instruction file go. Only that which it wrote with AES-CBC
needs --allow-unauthenticated-s3-client.

Messages without key commitment need --commitment-policy. A compressed stream of
Piko's old format stays compressed, and nothing then says so.`,
		Example: `  pikokms rewrap -k local:old.key --to local:dev.key --in-place photos
  pikokms rewrap -k local:dev.key --to 'awskms://alias/backups?region=eu-west-1' \
      --in-place --dry-run 's3://bucket/backups/?region=eu-west-1'
  pikokms rewrap -k vault://transit/backups --to vault://transit/backups --in-place photos`,
		Args:                  cobra.MinimumNArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, arguments []string) error {
			ctx := command.Context()
			if err := b.Check(o.out, o.replace, o.encode || o.decode); err != nil {
				return err
			}
			skipPlain, err := parsePlain(b.Plain)
			if err != nil {
				return err
			}
			if len(to) == 0 {
				return console.Usage(errors.New("no key to move to; name one with --to KEY"))
			}
			r, err := o.openReading(ctx, b.Use)
			if err != nil {
				return err
			}
			defer keys.CloseAll(r.keys)
			b.GoesOn = b.InPlace
			m, err := o.newRewrapper(ctx, r, to, b.Use)
			if err != nil {
				return err
			}
			defer keys.CloseAll(m.keys)
			return b.Run(ctx, o.out, o.replace, arguments, work.Job{
				Done:   "rewrapped",
				Rename: func(key string) (string, error) { return key, nil },
				Judge: func(ctx context.Context, i work.Item, s *places.Source) error {
					if s.Client.IsInstruction && b.InPlace {
						return m.settle(ctx, i, s, b.DryRun)
					}
					if err := refusePlain(s, skipPlain); err != nil || !b.InPlace {
						return err
					}
					if s.Client.Header != nil {
						return nil
					}
					return m.judge(ctx, s)
				},
				Convert: m.convert,
				Made:    m.made,
			})
		},
	}
	o.addKeys(command, keyToDecrypt, pairToDecrypt)
	command.Flags().StringArrayVar(&to, "to", nil, "a `KEY` to encrypt under; may be repeated")
	command.Flags().StringVarP(&o.out, "out", "o", "", "the `OUT` file, folder or bucket")
	command.Flags().BoolVarP(&o.replace, "force", "f", false, "replace what exists in OUT")
	console.ShowInShortHelp(command.Flags(), "to", "out", "force")
	b.Add(command, "")
	addPlain(command, &b.Plain)
	o.addReading(command)
	return command
}

// rewrapper is what moves messages to other keys.
type rewrapper struct {
	*reading
	keys      []*keys.Key
	decrypter message.Decrypter
	encrypter message.Encrypter
	objects   *pikokms.Host // writes what hosts read

	mu      sync.Mutex
	samples map[string]*header.Header // of messages under the new keys, by the pairs that pick branch keys
}

// newRewrapper opens the keys of --to. It asks them for a data key once, unless the encryption
// context of each object picks its branch key.
func (o *options) newRewrapper(ctx context.Context, r *reading, to []string, use func(flag string, ks []*keys.Key) error) (_ *rewrapper, err error) {
	ks, err := keys.Parse(to, o.timeout, true)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			keys.CloseAll(ks)
		}
	}()
	if most := (header.Limits{}).WithDefaults().MaxEncryptedDataKeys; len(ks) > most {
		return nil, console.Usage(fmt.Errorf("%d keys; a message has at most %d", len(ks), most))
	}
	if err := use("--to", ks); err != nil {
		return nil, err
	}
	if err := keys.OpenAll(ctx, ks); err != nil {
		return nil, err
	}
	policy, err := parsePolicy(o.policy)
	if err != nil {
		return nil, console.Usage(fmt.Errorf("--commitment-policy: %w", err))
	}
	m := &rewrapper{reading: r, keys: ks, samples: make(map[string]*header.Header)}
	m.encrypter = message.Encrypter{CommitmentPolicy: policy, Keyring: ks[0]}
	for _, k := range ks[1:] {
		m.encrypter.Recipients = append(m.encrypter.Recipients, k)
	}
	m.decrypter = message.Decrypter{Keyrings: keys.Keyrings(r.keys), CommitmentPolicy: policy, AllowPikoV2: o.pikoV2, Limits: o.limits}
	if m.objects, err = pikokms.New(pikokms.WithMessages(m.encrypter, m.decrypter)); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(ks, func(k *keys.Key) bool { return k.Pair != "" }) {
		if _, err := m.sample(ctx, nil); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// sample returns the header of a message under the new keys. The message has the pairs of -c, since
// policies may depend on them, and those of a stored encryption context that pick branch keys.
func (m *rewrapper) sample(ctx context.Context, stored map[string]string) (*header.Header, error) {
	picking := maps.Clone(m.pairs)
	if picking == nil {
		picking = make(map[string]string)
	}
	for _, k := range m.keys {
		if value, ok := stored[k.Pair]; ok && k.Pair != "" {
			picking[k.Pair] = value
		}
	}
	name := fmt.Sprint(picking) // in the order of the names
	m.mu.Lock()
	defer m.mu.Unlock()
	if h := m.samples[name]; h != nil {
		return h, nil
	}
	written, err := m.encrypter.NewReader(ctx, strings.NewReader(""), picking)
	if err != nil {
		return nil, err
	}
	m.samples[name] = written.Header()
	return written.Header(), nil
}

// judge returns work.Skipped for an object that a move would leave as it is.
func (m *rewrapper) judge(ctx context.Context, s *places.Source) error {
	start, err := s.Peek(places.PeekSize)
	if err != nil && err != io.EOF {
		return err
	}
	h, _, err := header.Parse(start, m.decrypter.Limits)
	if err != nil {
		return nil // decryption will return an error that says more
	}
	written, err := m.sample(ctx, h.EncryptionContext)
	if err != nil {
		return err
	}
	if h.Suite != written.Suite || !slices.Equal(look.KeyNames(h), look.KeyNames(written)) {
		return nil
	}
	// Two key files may have one name, and a key may have a newer version.
	current, err := m.encrypter.IsCurrent(ctx, h, m.pairs)
	if err != nil || !current {
		return err
	}
	return work.Skipped("it is under these keys already")
}

// made reports whether a target may be what convert made of a source.
func (m *rewrapper) made(ctx context.Context, from, to *look.Object) (bool, error) {
	if to.Kind != look.KindEncrypted {
		return false, nil
	}
	written, err := m.sample(ctx, to.Report.EncryptionContext)
	if err != nil {
		return false, err
	}
	sizeBefore, known := from.PlaintextSize()
	sizeAfter, alsoKnown := to.PlaintextSize()
	return to.IsUnder(written) && (!known || !alsoKnown || sizeBefore == sizeAfter), nil
}

// convert returns the object encrypted under the new keys.
func (m *rewrapper) convert(ctx context.Context, s *places.Source) (io.Reader, error) {
	start, err := s.Start()
	if err != nil {
		return nil, err
	}
	if s.Client.Header != nil {
		return m.move(ctx, s)
	}
	if pikov2.Sniff(start) && m.decrypter.AllowPikoV2 {
		content, err := m.decrypter.NewReader(ctx, s, nil)
		if err != nil {
			return nil, err
		}
		return messageReader(m.objects.EncryptObject(ctx, "", content, nil))
	}
	renewed, err := message.Rewrap(ctx, s, &m.decrypter, &m.encrypter, m.pairs)
	if err != nil {
		return nil, err
	}
	return renewed, requireNames(m.names, renewed.Header().EncryptionContext)
}
