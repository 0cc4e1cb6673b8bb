package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
)

// before means that an object was worked on before the work was interrupted.
const before = skipped("it was done before the interruption")

// recognise returns before if the result of an object is in its place already: the work on it may
// have been interrupted before it was noted down as done, or a service's answer may have been lost.
func (t *target) recognise(ctx context.Context, j job, i, to item) error {
	if t.place == nil || i.since.IsZero() {
		return nil // in place, judge tells
	}
	stored := examine(ctx, to.place, to.key)
	if stored.kind == "" && errors.Is(stored.err, fs.ErrNotExist) {
		return nil
	}
	if stored.err != nil || !isSince(stored.modTime, i) {
		return nil // what is to be said of it, put says
	}
	from := examine(ctx, i.place, i.key)
	changed := from.modTime
	if stored.modTime.Nanosecond() == 0 { // buckets have times in whole seconds
		changed = changed.Truncate(time.Second)
	}
	if from.err != nil || stored.modTime.Before(changed) {
		return nil
	}
	made, err := j.made(ctx, from, stored)
	if err == nil && made {
		err = before
	}
	return err
}

// clockSlack is how much the clock of a bucket or a file system may be behind ours.
const clockSlack = time.Minute

// isSince tells whether something was stored after work on an object may have begun.
func isSince(modTime time.Time, i item) bool { return !modTime.Before(i.since.Add(-clockSlack)) }

// sampleOf returns a function that returns the header of a message as transform makes them. One
// message is made, at the first call.
func sampleOf(transform func(context.Context, io.Reader) (io.Reader, error)) func(context.Context) (*header.Header, error) {
	var mu sync.Mutex
	var made *header.Header
	return func(ctx context.Context) (*header.Header, error) {
		mu.Lock()
		defer mu.Unlock()
		if made != nil {
			return made, nil
		}
		r, err := transform(ctx, strings.NewReader(""))
		if err != nil {
			return nil, err
		}
		encrypted, ok := r.(*message.EncryptReader)
		if !ok {
			return nil, fmt.Errorf("no message but a %T", r)
		}
		made = encrypted.Header()
		return made, nil
	}
}

// keyNames returns what the data keys of a message say of the keys that they are under.
func keyNames(h *header.Header) []string {
	names := make([]string, len(h.EncryptedDataKeys))
	for i, k := range h.EncryptedDataKeys {
		names[i] = k.ProviderID + " " + message.KeyName(k)
	}
	return names
}

// isUnder tells whether an object says that it is in the suite and under the keys of a header.
func (x *examined) isUnder(h *header.Header) bool {
	if x.kind != kindEncrypted || x.report.Suite != h.Suite.String() {
		return false
	}
	names := make([]string, len(x.report.EncryptedDataKeys))
	for i, k := range x.report.EncryptedDataKeys {
		names[i] = k.ProviderID + " " + k.Key
	}
	return slices.Equal(names, keyNames(h))
}

// hasPairs tells whether an object says that it has an encryption context, but for the key of its
// signature.
func (x *examined) hasPairs(pairs map[string]string) bool {
	for name, value := range pairs {
		if stored, ok := x.report.EncryptionContext[name]; name != header.PublicKeyName && (!ok || stored != value) {
			return false
		}
	}
	return true
}
