package branchkey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"piko.sh/pikokms/provider"
)

// moveAttempts is how often Move begins anew after another administrator changed the branch key.
const moveAttempts = 5

// all returns the items of a branch key: its versions, the oldest first, then the beacon key, then
// the active version.
func (s *Store) all(ctx context.Context, id string) ([]*record, error) {
	items, err := s.table.All(ctx, id)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("%w: table %s has no branch key %q", provider.ErrKeyNotFound, s.table.Name(), id)
	}
	records := make([]*record, len(items))
	for i, item := range items {
		if records[i], err = parse(item); err != nil {
			return nil, err
		}
		if records[i].id != id {
			return nil, fmt.Errorf("%w: the table was asked for branch key %q and answered with %q", ErrDamaged, id, records[i].id)
		}
	}
	order := func(r *record) int { return slices.Index([]string{kindBeacon, kindActive}, r.kind) }
	slices.SortFunc(records, func(a, b *record) int {
		return cmp.Or(order(a)-order(b), a.created.Compare(b.created), cmp.Compare(a.kind, b.kind))
	})
	return records, nil
}

// Move brings all items of a branch key under the store's own KMS key, by KMS ReEncrypt. Neither
// messages nor their data keys change. The store must trust the KMS key that the items are under
// now, and so must all who read meanwhile; afterwards nobody needs it any more. progress, if not
// nil, is called with the number of items that are under the store's key, and of all.
//
// A transaction has at most MaxWrites items, and the active version is in the last one. If Move is
// interrupted, all messages still open, and Move can be called again. If another administrator
// makes a version meanwhile, Move begins anew, and nothing of theirs is lost.
//
// It makes one call of KMS for each item.
func (s *Store) Move(ctx context.Context, id string, progress func(moved, total int)) error {
	if progress == nil {
		progress = func(_, _ int) {}
	}
	var err error
	for range moveAttempts {
		if err = s.move(ctx, id, progress); !errors.Is(err, ErrConflict) {
			break
		}
	}
	return s.fail("Move", id, err)
}

func (s *Store) move(ctx context.Context, id string, progress func(moved, total int)) error {
	keyARN, err := s.wrappingKey()
	if err != nil {
		return err
	}
	records, err := s.all(ctx, id)
	if err != nil {
		return err
	}
	total := len(records)
	records = slices.DeleteFunc(records, func(r *record) bool { return r.keyARN == keyARN })
	moved := total - len(records)
	progress(moved, total)
	for chunk := range slices.Chunk(records, MaxWrites) {
		writes := make([]Write, len(chunk))
		for i, r := range chunk {
			if writes[i], err = s.underKey(ctx, r, keyARN); err != nil {
				return err
			}
		}
		if err := s.table.Write(ctx, writes); err != nil {
			return err
		}
		moved += len(chunk)
		progress(moved, total)
	}
	return nil
}

// underKey returns the write that brings an item under a key.
func (s *Store) underKey(ctx context.Context, r *record, keyARN string) (Write, error) {
	ask, err := s.kms.Trusts(r.keyARN)
	if err != nil {
		return Write{}, fmt.Errorf("item %q: %w", r.kind, err)
	}
	item := r.with(nil, map[string]string{attributeKeyARN: keyARN})
	item.Enc, err = s.kms.ReEncrypt(ctx, r.Enc, ask, r.encryptionContext(s.logicalName), keyARN, item.encryptionContext(s.logicalName))
	return Write{item, r.Enc}, s.judge(r, err)
}

// Check checks a branch key. It asks KMS whether each item is genuine, by KMS ReEncrypt. The items
// must be complete and under the store's own KMS key, and the active version must be the newest. If
// the branch key can't be trusted or is not all under the store's key, the error says every reason.
// It holds ErrDamaged, ErrRefused, ErrHierarchyVersion, ErrRolledBack, ErrIncomplete or
// provider.ErrUntrustedKey.
//
// A table that was rolled back as a whole, with all its items, can't be told from one that never
// changed.
//
// It makes one call of KMS for each item, and needs no permission to decrypt.
func (s *Store) Check(ctx context.Context, id string) error {
	return s.fail("Check", id, s.check(ctx, id))
}

func (s *Store) check(ctx context.Context, id string) error {
	items, err := s.table.All(ctx, id)
	if err != nil {
		return err
	}
	if len(items) == 0 {
		return fmt.Errorf("%w: table %s has no branch key %q", provider.ErrKeyNotFound, s.table.Name(), id)
	}
	var errs []error
	records := make(map[string]*record)
	for _, item := range items {
		r, err := s.checkItem(ctx, id, item)
		if outage := errors.Is(err, provider.ErrProviderUnavailable) || ctx.Err() != nil; err != nil && outage {
			return err
		}
		if errs = append(errs, err); err == nil {
			records[r.kind] = r
		}
	}
	if len(records) == len(items) { // otherwise what is said above is the reason
		errs = append(errs, checkTogether(records))
	}
	return errors.Join(errs...)
}

// checkItem checks one item by itself.
func (s *Store) checkItem(ctx context.Context, id string, item Item) (*record, error) {
	r, err := parse(item)
	if err != nil {
		return nil, err
	}
	if r.id != id {
		return nil, fmt.Errorf("%w: the table was asked for branch key %q and answered with %q", ErrDamaged, id, r.id)
	}
	ask, err := s.kms.Trusts(r.keyARN)
	if err != nil {
		return nil, fmt.Errorf("item %q: %w", r.kind, err)
	}
	if own := s.kms.KeyARN(); own != "" && ask != own {
		return nil, fmt.Errorf("%w: item %q is under %s, not under %s; move the branch key", provider.ErrUntrustedKey, r.kind, r.keyARN, own)
	}
	return r, s.authenticate(ctx, r, ask)
}

// checkTogether checks that genuine items belong together.
func checkTogether(records map[string]*record) error {
	active, beacon := records[kindActive], records[kindBeacon]
	if active == nil || beacon == nil {
		return fmt.Errorf("%w: it needs the items %q and %q", ErrIncomplete, kindActive, kindBeacon)
	}
	version := records[kindVersion+active.version.String()]
	if version == nil {
		return fmt.Errorf("%w: the active version %s has no item of its own, so what is encrypted now can't be read later", ErrIncomplete, active.version)
	}
	var errs []error
	for _, r := range records {
		if r.kind != kindBeacon && r.created.After(active.created) {
			errs = append(errs, fmt.Errorf("%w: %q of %s is newer than the active version %s of %s", ErrRolledBack, r.kind, r.created, active.version, active.created))
		}
		if !maps.Equal(r.ownContext(), active.ownContext()) {
			errs = append(errs, fmt.Errorf("%w: %q and %q have different encryption contexts", ErrDamaged, r.kind, kindActive))
		}
	}
	return errors.Join(errs...)
}
