// Package keys makes keyrings of the URLs that name keys.
package keys

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/telemetry"
	"piko.sh/pikokms/cmd/pikokms/keyservices"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/keyurl"
	"piko.sh/pikokms/service"
)

const DefaultTimeout = 10 * time.Second

const Variable = "PIKOKMS_KEY"

// Key is a KEY of the command line whose syntax is valid. It is opened when it is first used, so
// that a key that can't be reached does not stop the others. It is safe for concurrent use.
type Key struct {
	*keyurl.Key

	Given   string        // as its user wrote it
	Timeout time.Duration // the time for an answer of the key service, retries included
	Calls   atomic.Int64  // of its key service, except those that open it
	check   bool          // whether opening it asks the key service

	// These are set where the key is used for many objects.
	Patient bool          // whether a key service that did not answer is asked again
	Limiter *rate.Limiter // of the calls; may be nil

	instrumented service.Service // asks the KEY, with telemetry and, if there is one, a cache of data keys

	mu      sync.Mutex
	keyring provider.Unwrapper // nil until it is opened; a provider.Wrapper, too, unless it only decrypts
	failure error              // why it can't be opened or asked; that is not tried again
}

// IsRemote reports whether the key is in a key service.
func (k *Key) IsRemote() bool { return !k.Local }

// isAskedEachTime reports whether a key service is asked for each data key. For a branch key the
// service is asked once, and then this process wraps the data keys.
func (k *Key) isAskedEachTime() bool { return k.IsRemote() && !k.Service.Guarded }

// Opened returns the keyring of the KEY, which it opens first if need be.
func (k *Key) Opened(ctx context.Context) (provider.Unwrapper, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keyring == nil && k.failure == nil {
		keyring, err := k.Open(ctx, keyurl.Options{CheckLater: !k.check, Guard: k.guard})
		if k.Patient && errors.Is(err, provider.ErrProviderUnavailable) {
			return nil, err
		}
		k.keyring, k.failure = keyring, err
	}
	return k.keyring, k.failure
}

// giveUp makes all further calls fail with err, unless the key is patient. So a key service that
// did not answer is not asked about the other data keys of a message.
func (k *Key) giveUp(err error) {
	if k.Patient {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failure = err
}

// Ask calls the keyring of a KEY, which it opens first if need be, and bounds the time of that.
func Ask[T any](ctx context.Context, k *Key, call func(context.Context, provider.Unwrapper) (T, error)) (T, error) {
	var answer T
	failed := new(attempts)
	var trace provider.Trace = failed
	if k.Limiter != nil && k.isAskedEachTime() { // Calls for branch keys wait in guard.
		if err := k.Limiter.Wait(ctx); err != nil {
			return answer, err
		}
		trace = k.limitRetries(failed)
	}
	bounded, cancel := context.WithTimeout(provider.WithTrace(ctx, trace), k.Timeout)
	defer cancel()
	keyring, err := k.Opened(bounded)
	if err == nil {
		answer, err = call(bounded, keyring)
	}
	if err == nil || errors.Is(err, provider.ErrUntrustedKey) {
		return answer, err
	}
	if ctx.Err() == nil && bounded.Err() != nil {
		err = fmt.Errorf("%w: no answer within %v%s; --kms-timeout sets how long to wait", provider.ErrProviderUnavailable, k.Timeout, failed.text())
		k.giveUp(err)
	}
	if _, unreached := errors.AsType[*net.OpError](err); unreached && ctx.Err() == nil {
		k.giveUp(err)
	}
	return answer, k.blame(err)
}

// attempts is a provider.Trace that records why attempts of a call failed.
type attempts struct {
	mu    sync.Mutex
	texts []string
}

func (a *attempts) Request() {}

func (a *attempts) Failed(err error) {
	if sent, ok := errors.AsType[*url.Error](err); ok {
		err = sent.Err // The rest names the URL, as the KEY does.
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.texts = append(a.texts, err.Error())
}

// text returns the causes of the failed attempts, each once.
func (a *attempts) text() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.texts) == 0 {
		return ""
	}
	var causes []string
	for _, text := range a.texts {
		if !slices.Contains(causes, text) {
			causes = append(causes, text)
		}
	}
	if len(a.texts) == 1 {
		return "; a try met: " + causes[0]
	}
	return fmt.Sprintf("; %d tries met: %s", len(a.texts), strings.Join(causes, ", "))
}

// limitRetries returns a trace that counts a call's retries against the rate, beside its first
// request, for which the caller has waited. A retry does not wait: the calls that follow do.
func (k *Key) limitRetries(inner provider.Trace) provider.Trace {
	return &limitedTrace{Trace: inner, limiter: k.Limiter}
}

type limitedTrace struct {
	provider.Trace
	limiter  *rate.Limiter
	requests atomic.Int64
}

func (t *limitedTrace) Request() {
	if t.requests.Add(1) > 1 {
		t.limiter.Reserve()
	}
	t.Trace.Request()
}

// blame adds the KEY to an error of its keyring.
func (k *Key) blame(err error) error {
	if failed, ok := errors.AsType[*provider.EncryptionError](err); ok {
		err = failed.Err // The error around it would name the key once more.
	}
	return fmt.Errorf("key %s: %w", k, err)
}

func (k *Key) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	return k.instrumented.GenerateDataKey(ctx, encryptionContext)
}

func (k *Key) WrapDataKey(ctx context.Context, dataKey *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	return k.instrumented.WrapDataKey(ctx, dataKey, encryptionContext)
}

// UnwrapDataKey asks a key service only about data keys that a service of its kind encrypted.
func (k *Key) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	ids := k.Service.ProviderIDs
	if ids != nil && !slices.ContainsFunc(ids, func(id string) bool { return strings.HasPrefix(request.EncryptedKey.ProviderID, id) }) {
		return nil, provider.ErrUntrustedKey
	}
	return k.instrumented.UnwrapDataKey(ctx, request)
}

func (k *Key) IsCurrent(ctx context.Context, request *provider.UnwrapDataKeyRequest) (bool, error) {
	return k.instrumented.IsCurrent(ctx, request)
}

func (k *Key) Type() provider.Type { return k.Service.Type }

func (k *Key) UnwrapPikoV2(ctx context.Context, wrapped string) (*provider.SecureBytes, error) {
	return k.instrumented.UnwrapPikoV2(ctx, wrapped)
}

func (k *Key) UnwrapS3EC(ctx context.Context, wrapped *provider.S3ECDataKey) (*provider.SecureBytes, error) {
	return k.instrumented.UnwrapS3EC(ctx, wrapped)
}

// askingKeyring asks a KEY for each data key, and counts the answers.
type askingKeyring struct{ *Key }

func (k askingKeyring) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	return Ask(ctx, k.Key, func(ctx context.Context, keyring provider.Unwrapper) (*provider.DataKey, error) {
		wrapper, err := wrapperOf(keyring)
		if err != nil {
			return nil, err
		}
		answer, err := wrapper.GenerateDataKey(ctx, encryptionContext)
		k.count(err)
		return answer, err
	})
}

// wrapperOf returns the half of a keyring that encrypts.
func wrapperOf(keyring provider.Unwrapper) (provider.Wrapper, error) {
	wrapper, ok := keyring.(provider.Wrapper)
	if !ok {
		return nil, fmt.Errorf("%w: discovery only decrypts; encrypt under a key", provider.ErrKeyUsage)
	}
	return wrapper, nil
}

func (k askingKeyring) WrapDataKey(ctx context.Context, dataKey *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	return Ask(ctx, k.Key, func(ctx context.Context, keyring provider.Unwrapper) (header.EncryptedDataKey, error) {
		wrapper, err := wrapperOf(keyring)
		if err != nil {
			return header.EncryptedDataKey{}, err
		}
		answer, err := wrapper.WrapDataKey(ctx, dataKey, encryptionContext)
		k.count(err)
		return answer, err
	})
}

func (k askingKeyring) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	return Ask(ctx, k.Key, func(ctx context.Context, keyring provider.Unwrapper) (*provider.DataKey, error) {
		answer, err := keyring.UnwrapDataKey(ctx, request)
		k.count(err)
		return answer, err
	})
}

// IsCurrent asks no key service about a key of AWS KMS, since a data key names it.
func (k askingKeyring) IsCurrent(ctx context.Context, request *provider.UnwrapDataKeyRequest) (bool, error) {
	judge := func(ctx context.Context, keyring provider.Unwrapper) (bool, error) {
		versioned, ok := keyring.(provider.VersionedKeyring)
		if !ok {
			return false, nil
		}
		return versioned.IsCurrent(ctx, request)
	}
	if k.IsAWS() {
		keyring, err := k.Opened(ctx)
		if err != nil {
			return false, err
		}
		return judge(ctx, keyring)
	}
	return Ask(ctx, k.Key, func(ctx context.Context, keyring provider.Unwrapper) (bool, error) {
		answer, err := judge(ctx, keyring)
		k.count(err)
		return answer, err
	})
}

func (k askingKeyring) UnwrapPikoV2(ctx context.Context, wrapped string) (*provider.SecureBytes, error) {
	return Ask(ctx, k.Key, func(ctx context.Context, keyring provider.Unwrapper) (*provider.SecureBytes, error) {
		old, ok := keyring.(provider.PikoV2Keyring)
		if !ok {
			return nil, fmt.Errorf("%w: it reads nothing from before pikokms", provider.ErrInvalidProvider)
		}
		return old.UnwrapPikoV2(ctx, wrapped)
	})
}

func (k askingKeyring) UnwrapS3EC(ctx context.Context, wrapped *provider.S3ECDataKey) (*provider.SecureBytes, error) {
	return Ask(ctx, k.Key, func(ctx context.Context, keyring provider.Unwrapper) (*provider.SecureBytes, error) {
		client, ok := keyring.(provider.S3ECKeyring)
		if !ok {
			return nil, provider.ErrUntrustedKey
		}
		answer, err := client.UnwrapS3EC(ctx, wrapped)
		k.count(err)
		return answer, err
	})
}

// CacheDataKeys makes one data key serve several messages, and several reads. It must be called
// before the key is used.
func (k *Key) CacheDataKeys(limits service.CacheLimits) {
	k.instrumented = service.New(askingKeyring{k}, service.Config{NoBreaker: true, Cache: &limits, Telemetry: telemetry.Providers()})
}

// Close zeroes the keys in memory, and ends the connections to a key service.
func (k *Key) Close() error {
	err := k.instrumented.Close()
	k.mu.Lock()
	defer k.mu.Unlock()
	if c, ok := k.keyring.(io.Closer); ok {
		err = errors.Join(err, c.Close())
	}
	return err
}

// Parse parses the KEYs given with -k or, if there are none, in the environment. Timeout bounds
// each answer of a key service. With check, opening a key asks the key service whether it can be
// used, which takes a permission that decryption does not need.
func Parse(given []string, timeout time.Duration, check bool) ([]*Key, error) {
	origin := "-k"
	if len(given) == 0 {
		origin, given = Variable, strings.Fields(os.Getenv(Variable))
	}
	if len(given) == 0 {
		return nil, console.Usage(fmt.Errorf("no key; name one with -k KEY or in the environment variable %s", Variable))
	}
	keys := make([]*Key, len(given))
	for i, text := range given {
		var err error
		if keys[i], err = parseKey(text, timeout, check); err != nil {
			return nil, console.Usage(fmt.Errorf("%s: %w", origin, err))
		}
	}
	return keys, nil
}

// parseKey parses one KEY, as Parse does.
func parseKey(text string, timeout time.Duration, check bool) (*Key, error) {
	services := keyservices.All()
	if u, err := keyurl.ParseURL(text, services...); err == nil && u.Scheme == "" {
		return nil, fmt.Errorf("%q is not a URL; a key file is local:PATH, an alias awskms://alias/NAME?region=REGION", provider.RedactURL(u.String()))
	}
	parsed, err := keyurl.Parse(text, services...)
	if err != nil {
		return nil, err
	}
	k := &Key{Key: parsed, Given: text, Timeout: timeout, check: check}
	k.instrumented = service.New(askingKeyring{k}, service.Config{NoBreaker: true, Telemetry: telemetry.Providers()})
	return k, nil
}

// count counts a call of a key service, given its error. For a key that is not trusted there was no
// call, and calls for branch keys are counted by guard.
func (k *Key) count(err error) {
	if k.isAskedEachTime() && !errors.Is(err, provider.ErrUntrustedKey) {
		k.Calls.Add(1)
	}
}

// IsAWS reports whether the key is in AWS KMS.
func (k *Key) IsAWS() bool { return k.Type() == awskms.KeyService.Type }

func CloseAll(keys []*Key) {
	for _, k := range keys {
		_ = k.Close()
	}
}

// OpenAll opens all keys at the same time. It returns the error of the first key that fails, in the
// order of keys.
func OpenAll(ctx context.Context, keys []*Key) error {
	failures := make([]error, len(keys))
	var opening sync.WaitGroup
	for i, k := range keys {
		opening.Go(func() {
			_, failures[i] = Ask(ctx, k, func(context.Context, provider.Unwrapper) (struct{}, error) { return struct{}{}, nil })
		})
	}
	opening.Wait()
	return cmp.Or(failures...)
}

// OpenAny returns an error if no KEY can decrypt, as far as that shows without a call of a key
// service. Work on many objects would fail for each of them.
func OpenAny(ctx context.Context, keys []*Key) error {
	local, remote := ForDecryption(keys)
	var failures []error
	for _, k := range append(local, remote...) {
		_, err := k.Opened(ctx)
		if err == nil || errors.Is(err, provider.ErrProviderUnavailable) {
			return nil
		}
		failures = append(failures, k.blame(err))
	}
	return errors.Join(failures...)
}

// OpenLocal returns an error if a KEY that needs no key service can't be used.
func OpenLocal(ctx context.Context, keys []*Key) error {
	local, _ := ForDecryption(keys)
	return OpenAll(ctx, local)
}

// Keyrings returns keys in the order in which they are tried: those that need no key service come
// first.
func Keyrings(keys []*Key) []provider.Unwrapper {
	local, remote := ForDecryption(keys)
	keyrings := make([]provider.Unwrapper, 0, len(keys))
	for _, k := range append(local, remote...) {
		keyrings = append(keyrings, k)
	}
	return keyrings
}

// ForDecryption splits keys into those that need no key service and those that do.
func ForDecryption(keys []*Key) (local, remote []*Key) {
	for _, k := range keys {
		if k.IsRemote() {
			remote = append(remote, k)
		} else {
			local = append(local, k)
		}
	}
	return local, remote
}
