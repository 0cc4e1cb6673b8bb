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

// all returns the items of a branch key that have the specified form: its versions, the oldest
// first, then the beacon key, then the active version. For each other item, faults has the reason.
func (s *Store) all(ctx context.Context, id string) (records []*record, faults []error, err error) {
	for item, err := range s.table.All(ctx, id) {
		var r *record
		if err == nil {
			r, err = parse(item)
		}
		if err == nil && r.id != id {
			err = fmt.Errorf("%w: the table was asked for branch key %q and answered with %q", ErrDamaged, id, r.id)
		}
		switch {
		case err == nil:
			records = append(records, r)
		case isFault(err):
			faults = append(faults, err)
		default:
			return nil, nil, err
		}
	}
	if len(records)+len(faults) == 0 {
		return nil, nil, fmt.Errorf("%w: table %s has no branch key %q", provider.ErrKeyNotFound, s.table.Name(), id)
	}
	order := func(r *record) int { return slices.Index([]string{kindBeacon, kindActive}, r.kind) }
	slices.SortFunc(records, func(a, b *record) int {
		return cmp.Or(order(a)-order(b), a.created.Compare(b.created), cmp.Compare(a.kind, b.kind))
	})
	return records, faults, nil
}

// Move brings all items of a branch key under the store's own KMS key, by KMS ReEncrypt. Neither
// messages nor their data keys change. The store must trust the KMS key that the items are under
// now, and so must all who read meanwhile; afterwards nobody needs it any more. progress, if not
// nil, is called with the number of items that are under the store's key, and of all.
//
// KMS re-encrypts all items before the first is written. If items are damaged, or refused by KMS,
// nothing is written, and the error has the reason for each.
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
	records, faults, err := s.all(ctx, id)
	if err != nil {
		return err
	}
	total := len(records) + len(faults)
	records = slices.DeleteFunc(records, func(r *record) bool { return r.keyARN == keyARN })
	moved := total - len(records) - len(faults)
	progress(moved, total)
	writes := make([]Write, 0, len(records))
	for _, r := range records {
		w, err := s.underKey(ctx, r, keyARN)
		if err != nil && !isFault(err) {
			return err
		}
		if err != nil {
			faults = append(faults, err)
		}
		writes = append(writes, w)
	}
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	for chunk := range slices.Chunk(writes, MaxWrites) {
		if err := s.table.Write(ctx, chunk); err != nil {
			return err
		}
		moved += len(chunk)
		progress(moved, total)
	}
	return nil
}

// isFault reports whether an error is about one item alone, so that others can be looked at.
func isFault(err error) bool {
	return errors.Is(err, ErrDamaged) || errors.Is(err, ErrHierarchyVersion) || errors.Is(err, ErrRefused)
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
	records, faults, err := s.all(ctx, id)
	if err != nil {
		return err
	}
	isWhole := len(faults) == 0
	byKind := make(map[string]*record)
	for _, r := range records {
		err := s.checkItem(ctx, r)
		if errors.Is(err, provider.ErrProviderUnavailable) || ctx.Err() != nil {
			return cmp.Or(err, ctx.Err())
		}
		faults = append(faults, err)
		byKind[r.kind] = r
		isWhole = isWhole && err == nil
	}
	if isWhole { // otherwise what is said above is the reason
		faults = append(faults, checkTogether(byKind))
	}
	return errors.Join(faults...)
}

// checkItem checks one item by itself.
func (s *Store) checkItem(ctx context.Context, r *record) error {
	ask, err := s.kms.Trusts(r.keyARN)
	if err != nil {
		return fmt.Errorf("item %q: %w", r.kind, err)
	}
	if own := s.kms.KeyARN(); own != "" && ask != own {
		return fmt.Errorf("%w: item %q is under %s, not under %s; move the branch key", provider.ErrUntrustedKey, r.kind, r.keyARN, own)
	}
	return s.authenticate(ctx, r, ask)
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
