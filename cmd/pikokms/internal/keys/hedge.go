package keys

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// hedgeDelay is how long one key service may take before the next one is asked, too. AWS KMS takes
// tens of milliseconds.
const hedgeDelay = time.Second

// Remote unwraps the data key of one message with several KEYs of key services. It asks them one
// after the other, and does not wait for one that takes longer than hedgeDelay before it asks the
// next. So a service that is down costs a second, and not its whole timeout.
type Remote struct {
	keys         []*Key       // that were not asked yet
	attemptsLeft atomic.Int32 // of the attempts that header.Limits.MaxAttempts allows

	header  *header.Header
	ctx     context.Context // of the calls; set by the first UnwrapDataKey
	cancel  context.CancelFunc
	working int                     // number of keys that are being asked
	answers chan remoteAnswer       // has room for all of them
	failed  [][]error               // for each data key of the message
	misfits []*provider.SecureBytes // for each data key, one that was unwrapped and does not fit the message
}

// remoteAnswer is what a KEY made of one data key, or the note that it is done with all of them.
type remoteAnswer struct {
	index int // index of the data key in the message; -1 at the end
	key   *provider.SecureBytes
	err   error
}

func NewRemote(keys []*Key, limits header.Limits) *Remote {
	r := &Remote{keys: keys}
	r.attemptsLeft.Store(int32(limits.WithDefaults().MaxAttempts))
	return r
}

// Accept is a message.Decrypter's Accept. It accepts every message, and keeps its header for
// UnwrapDataKey.
func (r *Remote) Accept(h *header.Header) error {
	n := len(h.EncryptedDataKeys)
	r.header, r.failed, r.misfits = h, make([][]error, n), make([]*provider.SecureBytes, n)
	r.answers = make(chan remoteAnswer, len(r.keys)*(n+1))
	return nil
}

// UnwrapDataKey returns the first data key that fits the message, whichever one was requested,
// since the data keys of an honest message are all the same. If none fits, the result is that of
// the requested one.
func (r *Remote) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	if r.ctx == nil {
		r.ctx, r.cancel = context.WithCancel(ctx)
	}
	requested := slices.IndexFunc(r.header.EncryptedDataKeys, func(k header.EncryptedDataKey) bool {
		return bytes.Equal(k.Ciphertext, request.EncryptedKey.Ciphertext) && bytes.Equal(k.ProviderInfo, request.EncryptedKey.ProviderInfo)
	})
	for r.working > 0 || r.askNext(*request) {
		select {
		case a := <-r.answers:
			if key := r.take(a, *request); key != nil {
				return &provider.DataKey{PlaintextKey: key, Verified: func(fits bool) {
					if fits {
						r.cancel()
					}
				}}, nil
			}
		case <-time.After(hedgeDelay):
			r.askNext(*request)
		}
	}
	if key := r.misfits[requested]; key != nil {
		r.misfits[requested] = nil
		return &provider.DataKey{PlaintextKey: key}, nil // the message's reader reports what is wrong with it
	}
	if err := errors.Join(r.failed[requested]...); err != nil {
		return nil, err
	}
	return nil, provider.ErrUntrustedKey
}

// take handles an answer. It returns the data key if that is the message's, and nil otherwise.
func (r *Remote) take(a remoteAnswer, request provider.UnwrapDataKeyRequest) *provider.SecureBytes {
	switch {
	case a.index < 0:
		r.working--
		r.askNext(request)
	case a.err != nil:
		r.failed[a.index] = append(r.failed[a.index], a.err)
	case r.fits(a.key):
		return a.key
	case r.misfits[a.index] == nil:
		r.misfits[a.index] = a.key
	default:
		_ = a.key.Close()
	}
	return nil
}

// fits reports whether the message commits to a data key. Of a message without key commitment every
// data key fits, and its reader checks it.
func (r *Remote) fits(key *provider.SecureBytes) bool {
	h := r.header
	if !h.Suite.Commits() {
		return true
	}
	return key.WithAccess(func(b []byte) error {
		_, commitment, err := h.Suite.DeriveKeys(b, h.MessageID)
		if err == nil && subtle.ConstantTimeCompare(commitment, h.Commitment) != 1 {
			err = provider.ErrDecryptionFailed
		}
		return err
	}) == nil
}

// askNext starts to ask the next KEY about all data keys of the message. It returns false if there
// is no other KEY.
func (r *Remote) askNext(request provider.UnwrapDataKeyRequest) bool {
	if len(r.keys) == 0 {
		return false
	}
	k := r.keys[0]
	r.keys, r.working = r.keys[1:], r.working+1
	go func() {
		for i, wrapped := range r.header.EncryptedDataKeys {
			if r.ctx.Err() != nil {
				break
			}
			if r.attemptsLeft.Add(-1) < 0 {
				r.answers <- remoteAnswer{i, nil, &header.LimitError{Limit: "MaxAttempts", Reason: "the message's data keys take more attempts than were made", Option: "Limits.MaxAttempts"}}
				break
			}
			ownRequest := request
			ownRequest.EncryptedKey = wrapped
			dataKey, err := k.UnwrapDataKey(r.ctx, &ownRequest)
			if errors.Is(err, provider.ErrUntrustedKey) {
				r.attemptsLeft.Add(1) // no key service was asked
				continue
			}
			if err != nil {
				r.answers <- remoteAnswer{i, nil, err}
				continue
			}
			r.answers <- remoteAnswer{i, dataKey.PlaintextKey, nil}
		}
		r.answers <- remoteAnswer{index: -1}
	}()
	return true
}

// Close cancels the calls that are under way, and zeroes the data keys that they return.
func (r *Remote) Close() error {
	if r.cancel == nil {
		return nil
	}
	r.cancel()
	for _, key := range r.misfits {
		if key != nil {
			_ = key.Close()
		}
	}
	for r.working > 0 {
		switch a := <-r.answers; {
		case a.index < 0:
			r.working--
		case a.key != nil:
			_ = a.key.Close()
		}
	}
	return nil
}
