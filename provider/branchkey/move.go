package branchkey

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// moveAttempts is how often Move begins anew after another administrator changed the branch key.
const moveAttempts = 5

// Move brings all items of a branch key under the store's own KMS key, by KMS ReEncrypt. Neither
// messages nor their data keys change. The store must trust the KMS key that the items are under
// now, and so must all processes that read messages meanwhile. Afterwards, nobody needs that key.
// progress, if not nil, is called with the number of items that are under the store's key, and of
// all.
//
// KMS re-encrypts all items before the first is written, and authenticates those that are under the
// store's key already. If items are damaged, or refused by KMS, nothing is written, and the error
// has the reason for each.
//
// A transaction has at most 100 items, and the active version is in the last one. If Move is
// interrupted, all messages still open, and Move can be called again. If another administrator
// makes a version meanwhile, Move begins anew, and nothing of theirs is lost.
//
// A branch key that is disabled is moved, too, and stays disabled. For one that is destroyed, the
// error holds ErrDestroyed.
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
	if err := notDestroyed(id, records); err != nil {
		return err
	}
	if err := s.newest.refuseDestroyed(id); err != nil {
		return err
	}
	total, moved := len(records)+len(faults), 0
	writes := make([]tableWrite, 0, len(records))
	for _, r := range records {
		var w tableWrite
		var err error
		if r.keyARN == keyARN { // only KMS can authenticate what the item says of itself
			err = s.authenticate(ctx, r, keyARN)
			moved++
		} else {
			w, err = s.underKey(ctx, r, keyARN)
			writes = append(writes, w)
		}
		if err != nil && !errors.Is(err, ErrDamaged) {
			return err
		}
		if err != nil {
			faults = append(faults, err)
		}
	}
	progress(moved, total)
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	for chunk := range slices.Chunk(writes, maxWrites) {
		if err := s.table.Write(ctx, chunk); err != nil {
			return err
		}
		moved += len(chunk)
		progress(moved, total)
	}
	return nil
}

// underKey returns the write that brings an item under a key.
func (s *Store) underKey(ctx context.Context, r *record, keyARN string) (tableWrite, error) {
	under, err := s.kms.Trusts(r.keyARN)
	if err != nil {
		return tableWrite{}, fmt.Errorf("item %q: %w", r.kind, err)
	}
	item := r.with(map[string]string{attributeKeyARN: keyARN})
	item.Enc, err = s.kms.ReEncrypt(ctx, r.Enc, under, r.encryptionContext(s.logicalName), keyARN, item.encryptionContext(s.logicalName))
	if err != nil {
		return tableWrite{}, s.aboutItem(r, err)
	}
	item, err = r.storing(item)
	return tableWrite{item, r.stored.Enc}, err
}
