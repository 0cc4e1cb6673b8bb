package verbs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/s3ec"
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
		size, err := console.ParseSize(o.clientMemory)
		if err != nil {
			return nil, console.Usage(fmt.Errorf("--s3-client-memory: %w", err))
		}
		if o.readsClients == nil { // once, since all that is opened shares its memory
			o.readsClients = pikokms.AllowS3EncryptionClient(s3ec.Config{AllowUnauthenticated: o.unauthenticated, MaxMemory: max(size, 1)})
		}
	}
	if o.timeout <= 0 {
		return nil, console.Usage(fmt.Errorf("--kms-timeout is %v; give a time such as 10s", o.timeout))
	}
	ks, err := keys.Parse(o.keys, o.timeout, encrypting)
	if err != nil {
		return nil, err
	}
	if most := (header.Limits{}).WithDefaults().MaxEncryptedDataKeys; encrypting && len(ks) > most {
		return nil, console.Usage(fmt.Errorf("%d keys; a message has at most %d", len(ks), most))
	}
	return ks, nil
}

// host returns a host without a storage, which encrypts and decrypts under keys. It applies the
// transformers before it encrypts.
func (o *options) host(encrypting bool, ks []*keys.Key, encrypter message.Encrypter, transformers ...string) (*pikokms.Host, error) {
	policy, err := parsePolicy(o.policy)
	if err != nil {
		return nil, console.Usage(fmt.Errorf("--commitment-policy: %w", err))
	}
	encrypter.CommitmentPolicy, encrypter.Keyring = policy, ks[0]
	for _, k := range ks[1:] {
		encrypter.Recipients = append(encrypter.Recipients, k)
	}
	decrypter := message.Decrypter{Keyrings: keys.Keyrings(ks), CommitmentPolicy: policy, AllowPikoV2: o.pikoV2, Limits: o.limits}
	// A stream of Piko's has one data key, so there is nothing to ask several keys about.
	if local, remote := keys.ForDecryption(ks); len(remote) > 1 && o.single && !o.pikoV2 {
		o.remote = keys.NewRemote(remote, o.limits)
		decrypter.Keyrings = append(keys.Keyrings(local), o.remote)
	}
	if !encrypting { // any message is read, not only stored objects
		decrypter.Accept = o.accept
	}
	options := []pikokms.Option{pikokms.WithMessages(encrypter, decrypter), pikokms.WithEnabledTransformers(transformers...)}
	if o.readsClients != nil {
		options = append(options, o.readsClients)
	}
	return pikokms.New(options...)
}

// accept refuses a message that does not store the pairs that -c names.
func (o *options) accept(h *header.Header) error {
	if err := requireNames(o.names, h.EncryptionContext); err != nil {
		return err
	}
	if o.remote != nil {
		return o.remote.Accept(h)
	}
	return nil
}

// requireNames refuses an encryption context without pairs of these names.
func requireNames(names []string, stored map[string]string) error {
	for _, name := range names {
		if _, ok := stored[name]; !ok {
			return fmt.Errorf("%w: the message has no pair %q, which -c asks for", provider.ErrContextMismatch, name)
		}
	}
	return nil
}

// decrypt returns the content that was encrypted as a message, which must have the pairs.
func (o *options) decrypt(ctx context.Context, host *pikokms.Host, in io.Reader, pairs map[string]string) (io.Reader, error) {
	content, _, err := host.DecryptObject(ctx, "", in, -1, pairs)
	switch {
	case errors.Is(err, s3ec.ErrUnauthenticated):
		return nil, fmt.Errorf("%w; --allow-unauthenticated-s3-client reads it", err)
	case errors.Is(err, s3ec.ErrMemory):
		return nil, fmt.Errorf("%w; --s3-client-memory sets it", err)
	case err != nil:
		return nil, err
	}
	switch r := content.(type) {
	case *message.DecryptReader:
		if r.Header() == nil { // a stream of Piko's has no pairs
			return content, requireNames(o.names, nil)
		}
	case *s3ec.Content:
		if err := requireNames(o.names, r.Header.Context); err != nil {
			_ = r.Close() // never fails
			return nil, err
		}
		if source, ok := in.(*places.Source); ok {
			source.Hold(r)
		}
		return &s3ec.Moved{Reader: r, Content: r}, nil
	}
	return content, nil
}

// reading decrypts messages under the keys of a command line.
type reading struct {
	*options
	keys  []*keys.Key
	host  *pikokms.Host
	pairs map[string]string
}

// decrypt returns the content that was encrypted as a message.
func (r *reading) decrypt(ctx context.Context, in io.Reader) (io.Reader, error) {
	return r.options.decrypt(ctx, r.host, in, r.pairs)
}

// openReading returns a reading of the flags whose keys are open. If none of them can decrypt, as
// far as that shows without a call, it fails: work on many objects would fail for each of them. If
// use is not nil, it prepares the keys before they are opened.
func (o *options) openReading(ctx context.Context, use func(flag string, ks []*keys.Key) error) (*reading, error) {
	r, err := o.reading()
	if err != nil {
		return nil, err
	}
	if use != nil {
		err = use("-k", r.keys)
	}
	if err == nil {
		err = keys.OpenAny(ctx, r.keys)
	}
	if err != nil {
		keys.CloseAll(r.keys)
		return nil, err
	}
	return r, nil
}

// reading returns a reading of the flags. Its keys are not open yet.
func (o *options) reading() (*reading, error) {
	pairs, err := o.requiredContext()
	if err != nil {
		return nil, err
	}
	ks, err := o.check(false)
	if err != nil {
		return nil, err
	}
	host, err := o.host(false, ks, message.Encrypter{})
	if err != nil {
		return nil, err
	}
	return &reading{o, ks, host, pairs}, nil
}
