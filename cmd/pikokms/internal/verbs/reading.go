package verbs

import (
	"context"
	"fmt"
	"io"
	"math"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// check checks the flags and returns the keys.
func (o *options) check(encrypting bool) ([]*keys.Key, error) {
	if !encrypting {
		for _, limit := range []struct {
			flag string
			n    int
		}{{"--max-keys", o.limits.MaxEncryptedDataKeys}, {"--max-pairs", o.limits.MaxPairs}, {"--max-attempts", o.limits.MaxAttempts}} {
			if limit.n < 1 || limit.n > math.MaxUint16 {
				return nil, console.Usage(fmt.Errorf("%s is %d; give 1 to %d", limit.flag, limit.n, math.MaxUint16))
			}
		}
	}
	if o.timeout <= 0 {
		return nil, console.Usage(fmt.Errorf("--kms-timeout is %v; give a time such as 10s", o.timeout))
	}
	ks, err := keys.Parse(o.keys, o.timeout, encrypting)
	if err != nil {
		return nil, err
	}
	if encrypting && len(ks) > header.DefaultMaxEncryptedDataKeys {
		return nil, console.Usage(fmt.Errorf("%d keys; a message has at most %d", len(ks), header.DefaultMaxEncryptedDataKeys))
	}
	return ks, nil
}

// registry returns a registry of all transformers, with one that encrypts and decrypts under keys.
func (o *options) registry(encrypting bool, ks []*keys.Key, encrypter message.Encrypter) (*pikokms.Registry, error) {
	policy, err := message.ParseCommitmentPolicy(o.policy)
	if err != nil {
		return nil, console.Usage(fmt.Errorf("--commitment-policy: %w", err))
	}
	encrypter.CommitmentPolicy, encrypter.Keyring = policy, ks[0]
	for _, k := range ks[1:] {
		encrypter.Recipients = append(encrypter.Recipients, k)
	}
	decrypter := message.Decrypter{Keyrings: keys.Keyrings(ks), CommitmentPolicy: policy, AllowPikoV2: o.pikoV2, Limits: o.limits}
	// A stream of Piko's has one data key, so there is nothing to ask several keys about.
	if here, remote := keys.ForDecryption(ks); len(remote) > 1 && o.single && !o.pikoV2 {
		o.remote = keys.NewRemote(remote, o.limits)
		decrypter.Keyrings, decrypter.Accept = append(keys.Keyrings(here), o.remote), o.remote.Accept
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
	return registry, registry.Register(requiringPairs{transformer, o.names})
}

// requiringPairs is a transformer that decrypts only messages that store pairs with these names.
type requiringPairs struct {
	*pikokms.CryptoTransformer
	names []string
}

func (d requiringPairs) Reverse(ctx context.Context, input io.Reader, pairs any) (io.Reader, error) {
	r, err := d.CryptoTransformer.Reverse(ctx, input, pairs)
	if err != nil {
		return nil, err
	}
	return r, d.check(r.(*message.DecryptReader).EncryptionContext())
}

func (d requiringPairs) Open(ctx context.Context, stored pikokms.SizedReaderAt, pairs any) (pikokms.SizedReaderAt, error) {
	r, err := d.CryptoTransformer.Open(ctx, stored, pairs)
	if err != nil {
		return nil, err
	}
	return r, d.check(r.(*message.DecryptReaderAt).EncryptionContext())
}

func (d requiringPairs) check(stored map[string]string) error {
	for _, name := range d.names {
		if _, ok := stored[name]; !ok {
			return fmt.Errorf("%w: the message has no pair %q, which -c asks for", provider.ErrContextMismatch, name)
		}
	}
	return nil
}

// reading is what decrypts.
type reading struct {
	keys     []*keys.Key
	registry *pikokms.Registry
	pairs    map[string]string
}

// reading returns what the flags say of decryption. The keys are not opened yet.
func (o *options) reading() (*reading, error) {
	pairs, err := o.requiredContext()
	if err != nil {
		return nil, err
	}
	ks, err := o.check(false)
	if err != nil {
		return nil, err
	}
	registry, err := o.registry(false, ks, message.Encrypter{})
	if err != nil {
		return nil, err
	}
	return &reading{ks, registry, pairs}, nil
}
