package branchkey

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"piko.sh/pikokms/provider"
)

// DefaultWait and MinWait are how long a branch key is disabled before it can be destroyed, by
// default and at least. AWS KMS waits at least DefaultWait before it deletes a key (KMS API
// Reference, "ScheduleKeyDeletion"). MinWait is this package's choice: caches of an hour have long
// dropped the branch key by then, so whoever still needs it has had time to notice.
const (
	DefaultWait = 7 * 24 * time.Hour
	MinWait     = 24 * time.Hour
)

// disableAttempts is how often Disable begins anew after another administrator changed the branch
// key.
const disableAttempts = 5

// clock is a table that has a clock of its own, which no operator can set.
type clock interface {
	now(ctx context.Context, id string) (time.Time, error)
}

// eraser is a table that keeps what was overwritten until it is erased.
type eraser interface {
	erase(ctx context.Context) error
}

// now returns the time by the table's clock or, if it has none, by the computer's.
func (s *Store) now(ctx context.Context, id string) (time.Time, error) {
	if c, ok := s.table.(clock); ok {
		return c.now(ctx, id)
	}
	return time.Now(), nil
}

// Disable disables a branch key, and returns its description. From then on its messages can't be
// opened, and nothing is encrypted under it, by this package and by AWS's libraries. A process that
// has cached the branch key uses it until its TTL has passed. Enable takes it back.
//
// All items are set aside in their places of the table: the active version, all others, and the
// beacon key. A transaction takes up to 100 of them, the active version first. If Disable is
// interrupted, it can be called again; so it can if the branch key is disabled already. If another
// administrator makes a version meanwhile, or moves the branch key, Disable begins anew. If one
// enables it, the error holds ErrConflict. For a branch key that is destroyed, it holds
// ErrDestroyed.
//
// An AWS library that had read the active item before, to make a version, may overwrite it
// afterwards. Destroy refuses such a branch key until it is disabled again.
//
// The time of disabling is by the clock of DynamoDB, as its answer states it, and of this computer
// for other tables. KMS is not asked.
func (s *Store) Disable(ctx context.Context, id string) (*Description, error) {
	d, err := s.disable(ctx, id)
	return d, s.fail("Disable", id, err)
}

func (s *Store) disable(ctx context.Context, id string) (*Description, error) {
	wasDisabled := false // before, or by this call
	for range disableAttempts {
		records, active, err := s.intact(ctx, id)
		if err != nil {
			return nil, err
		}
		if err := notDestroyed(id, records); err != nil {
			return nil, err
		}
		if wasDisabled && active.state == stateEnabled {
			return nil, fmt.Errorf("%w: it was enabled again meanwhile", ErrConflict)
		}
		pending := slices.DeleteFunc(slices.Clone(records), func(r *record) bool { return r.state == stateDisabled })
		if len(pending) == 0 {
			return describe(records), nil
		}
		now, err := s.now(ctx, id)
		if err != nil {
			return nil, err
		}
		written, err := s.replace(ctx, active, pending, func(r *record, _ bool) (tableItem, error) {
			if r.state == stateDisabled {
				return setAside(r.tableItem, r.disabled)
			}
			return setAside(r.tableItem, now)
		})
		if err != nil && !errors.Is(err, ErrConflict) {
			return nil, err
		}
		wasDisabled = active.state == stateDisabled || written
	}
	return nil, ErrConflict
}

// Enable takes back what Disable did, and returns the description of the branch key. All items
// become what they were, the active version last, so that nothing is encrypted before everything
// can be decrypted. If Enable is interrupted, it can be called again; so it can if the branch key
// is enabled already. If another administrator changes the branch key at the same time, the error
// holds ErrConflict. For a branch key that is destroyed, even in part, it holds ErrDestroyed.
func (s *Store) Enable(ctx context.Context, id string) (*Description, error) {
	d, err := s.enable(ctx, id)
	return d, s.fail("Enable", id, err)
}

func (s *Store) enable(ctx context.Context, id string) (*Description, error) {
	records, active, err := s.intact(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := notDestroyed(id, records); err != nil {
		return nil, err
	}
	if err := s.newest.refuseDestroyed(id); err != nil {
		return nil, err
	}
	pending := slices.DeleteFunc(slices.Clone(records), func(r *record) bool { return r.state == stateEnabled })
	if len(pending) == 0 {
		return describe(records), nil
	}
	_, err = s.replace(ctx, active, pending, func(r *record, last bool) (tableItem, error) {
		if r == active && r.state == stateDisabled && !last {
			return setAside(r.tableItem, r.disabled)
		}
		return r.tableItem, nil
	})
	if err != nil {
		return nil, err
	}
	records, _, err = s.intact(ctx, id)
	if err != nil {
		return nil, err
	}
	return describe(records), nil
}

// Destroy destroys a branch key for good, and returns its description, which says what was
// destroyed. What is encrypted under it can't be read any more, except with what backups of the
// table keep. A process that has cached the branch key uses it until its TTL has passed, which
// should be long ago.
//
// It must have been disabled for wait, of at least MinWait; 0 means DefaultWait. Otherwise the
// error holds ErrTooEarly. The clock is that of Disable, and the time is that of the item that was
// disabled last.
//
// All items are overwritten with tombstones, in their places of the table. Whoever reads one, or
// makes a branch key of the same ID, gets an error that holds ErrDestroyed, and AWS's libraries
// fail. Tombstones have the branch key's ID, the versions, the ARNs of their KMS keys, and times.
// They stay for good.
//
// A transaction takes up to 100 items, the active version first: from then on there is no way
// back. If Destroy is interrupted, it can be called again. Then and afterwards it does not wait,
// and destroys whatever has come back. It returns when it has read again that nothing is left. If
// another administrator changes the branch key at the same time, the error holds ErrConflict. KMS
// is not asked.
//
// In a file it also overwrites the pages that are free. Copies that a file system or a disk keeps
// are out of its reach.
func (s *Store) Destroy(ctx context.Context, id string, wait time.Duration) (*Description, error) {
	d, err := s.destroy(ctx, id, wait)
	return d, s.fail("Destroy", id, err)
}

func (s *Store) destroy(ctx context.Context, id string, wait time.Duration) (*Description, error) {
	if wait == 0 {
		wait = DefaultWait
	}
	if wait < MinWait {
		return nil, fmt.Errorf("%w: a branch key is disabled for at least %v before it is destroyed, not for %v", provider.ErrInvalidKey, MinWait, wait)
	}
	records, active, err := s.intact(ctx, id)
	if err != nil {
		return nil, err
	}
	now, err := s.now(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := canDestroy(records, now, wait); err != nil {
		return nil, err
	}
	pending := slices.DeleteFunc(slices.Clone(records), func(r *record) bool { return r.state == stateDestroyed })
	if len(pending) > 0 {
		_, err = s.replace(ctx, active, pending, func(r *record, _ bool) (tableItem, error) { return r.tombstone(now), nil })
		if err != nil {
			return nil, err
		}
		if records, _, err = s.intact(ctx, id); err != nil {
			return nil, err
		}
	}
	d := describe(records)
	if len(d.Behind) > 0 {
		return nil, fmt.Errorf("%w: items %q are not destroyed", ErrConflict, d.Behind)
	}
	if e, ok := s.table.(eraser); ok {
		if err := e.erase(ctx); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// canDestroy returns an error if a branch key can't be destroyed at a time.
func canDestroy(records []*record, now time.Time, wait time.Duration) error {
	d := describe(records)
	switch current := stateOf(records); {
	case current == stateDestroyed:
		return nil // only in part, or some items have come back
	case current == stateEnabled:
		return fmt.Errorf("%w: disable it, and destroy it after %v", errNotDisabled, wait)
	case len(d.Behind) > 0:
		return fmt.Errorf("%w: items %q are enabled, since disabling or enabling was interrupted; disable it again", errNotDisabled, d.Behind)
	}
	if end := d.Disabled.Add(wait); now.Before(end) {
		return fmt.Errorf("%w: it was disabled on %s, and can be destroyed from %s; by the clock of the table it is %s",
			ErrTooEarly, d.Disabled.Format(time.RFC3339), end.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// intact returns all items of a branch key, and the active one of them. It fails if one of them is
// damaged. The error then says how the branch key can still be destroyed.
func (s *Store) intact(ctx context.Context, id string) (records []*record, active *record, err error) {
	records, faults, err := s.all(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	if len(faults) > 0 {
		return nil, nil, damagedItems(faults)
	}
	if active = activeOf(records); active == nil {
		return nil, nil, noActiveItem()
	}
	return records, active, nil
}

// replace replaces each item by what replacement returns for it. The parameter last is true in the
// last transaction. Each transaction also writes the active item, on the condition that nobody else
// has changed it. So of two administrators who change a branch key at the same time, one gets an
// error that holds ErrConflict at their next transaction. If there is an error, written reports
// whether an earlier transaction was written.
func (s *Store) replace(ctx context.Context, active *record, items []*record, replacement func(r *record, last bool) (tableItem, error)) (written bool, err error) {
	others := slices.DeleteFunc(slices.Clone(items), func(r *record) bool { return r == active })
	chunks := slices.Collect(slices.Chunk(others, maxWrites-1))
	if len(chunks) == 0 {
		chunks = [][]*record{nil}
	}
	lock := active.stored.Enc
	for i, chunk := range chunks {
		last := i == len(chunks)-1
		item, err := replacement(active, last)
		if err != nil {
			return written, err
		}
		writes := []tableWrite{{item, lock}}
		lock = item.Enc
		for _, r := range chunk {
			item, err := replacement(r, last)
			if err != nil {
				return written, err
			}
			writes = append(writes, tableWrite{item, r.stored.Enc})
		}
		if err := s.table.Write(ctx, writes); err != nil {
			return written, err
		}
		written = true
	}
	return written, nil
}

// activeOf returns the active item, or nil.
func activeOf(records []*record) *record {
	i := slices.IndexFunc(records, func(r *record) bool { return r.kind == kindActive })
	if i < 0 {
		return nil
	}
	return records[i]
}

// stateOf returns the state of the branch key that has these items: that of the active one, unless
// any item is destroyed.
func stateOf(records []*record) state {
	current := stateEnabled
	for _, r := range records {
		if r.state == stateDestroyed {
			return stateDestroyed
		}
		if r.kind == kindActive {
			current = r.state
		}
	}
	return current
}

// notDestroyed returns an error if an item of a branch key is destroyed.
func notDestroyed(id string, records []*record) error {
	var last time.Time
	for _, r := range records {
		if r.destroyed.After(last) {
			last = r.destroyed
		}
	}
	if last.IsZero() {
		return nil
	}
	return destroyedError(id, last)
}
