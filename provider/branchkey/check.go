package branchkey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"

	"piko.sh/pikokms/provider"
)

// Check checks a branch key. It asks KMS whether each item is genuine, by KMS ReEncrypt. The items
// must be complete and under the store's own KMS key, and the active version must be the newest. If
// the branch key can't be trusted or is not all under the store's key, the error has every reason.
// It holds ErrDamaged, ErrRolledBack or provider.ErrUntrustedKey.
//
// Check can't distinguish a table that was rolled back as a whole, with all its items, from one
// that never changed.
//
// A branch key that is disabled is checked likewise. If a branch key is destroyed, all its items
// must be, and KMS is not asked.
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
	if err := notDestroyed(id, records); err != nil {
		return errors.Join(append(faults, checkAllDestroyed(err, records))...)
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
	if isWhole { // otherwise the errors above are the reason
		faults = append(faults, checkTogether(byKind))
	}
	return errors.Join(faults...)
}

// checkAllDestroyed returns an error if a branch key is destroyed, but some of its items are not.
func checkAllDestroyed(destroyed error, records []*record) error {
	var errs []error
	for _, r := range records {
		if r.state != stateDestroyed {
			errs = append(errs, fmt.Errorf("%w: %w: its item %q is not destroyed; destroy it again", ErrRolledBack, destroyed, r.kind))
		}
	}
	return errors.Join(errs...)
}

// checkItem checks one item by itself.
func (s *Store) checkItem(ctx context.Context, r *record) error {
	under, err := s.kms.Trusts(r.keyARN)
	if err != nil {
		return fmt.Errorf("item %q: %w", r.kind, err)
	}
	if own := s.kms.KeyARN(); own != "" && under != own {
		return fmt.Errorf("%w: item %q is under %s, not under %s; move the branch key", provider.ErrUntrustedKey, r.kind, r.keyARN, own)
	}
	return s.authenticate(ctx, r, under)
}

// checkTogether checks that genuine items belong together.
func checkTogether(records map[string]*record) error {
	active, beacon := records[kindActive], records[kindBeacon]
	if active == nil || beacon == nil {
		return fmt.Errorf("%w: it needs the items %q and %q; restore them from a backup", errIncomplete, kindActive, kindBeacon)
	}
	version := records[kindVersion+active.version.String()]
	if version == nil {
		return incomplete(active)
	}
	var errs []error
	for _, r := range records {
		if r.state != active.state {
			errs = append(errs, fmt.Errorf("%w: %q is %s and %q is %s, since disabling or enabling was interrupted; do it again", errIncomplete, r.kind, r.state, kindActive, active.state))
		}
		if r.kind != kindBeacon && r.created.After(active.created) {
			errs = append(errs, fmt.Errorf("%w: %q of %s is newer than the active version %s of %s", ErrRolledBack, r.kind, r.created, active.version, active.created))
		}
		if !maps.Equal(r.ownContext(), active.ownContext()) {
			errs = append(errs, fmt.Errorf("%w: %q and %q have different encryption contexts", ErrDamaged, r.kind, kindActive))
		}
	}
	return errors.Join(errs...)
}

// incomplete returns the error for an active version that has no item of its own.
func incomplete(active *record) error {
	return fmt.Errorf("%w: the active version %s has no item of its own, so what is encrypted now can't be read later; restore it from a backup", errIncomplete, active.version)
}
