package branchkey

import (
	"errors"
	"fmt"

	"piko.sh/pikokms/provider"
)

// Errors of key stores. Errors of KMS and of tables hold those of package provider.
var (
	// ErrNoTable means that the table does not exist. It holds provider.ErrKeyNotFound.
	ErrNoTable = fmt.Errorf("%w: no table of branch keys", provider.ErrKeyNotFound)
	// ErrDamaged means that the items of a branch key are not as they were written: one is missing,
	// was changed, or has another form than the specified one or a newer one than this package
	// knows. If an item was changed, or was moved from another branch key or table, or if the table
	// has another logical name, KMS refuses the item, and the error also holds
	// provider.ErrDecryptionFailed.
	ErrDamaged = errors.New("item of the branch key table is damaged")
	// ErrRolledBack means that a branch key's active version is older than another one that it has,
	// or that this process has seen of it.
	ErrRolledBack = errors.New("active version of the branch key was rolled back")
	// ErrDisabled means that a branch key is disabled. It holds provider.ErrKeyDisabled.
	ErrDisabled error = &wrappedError{"branch key is disabled", provider.ErrKeyDisabled}
	// ErrDestroyed means that a branch key was destroyed. It holds provider.ErrKeyDisabled.
	ErrDestroyed error = &wrappedError{"branch key was destroyed", provider.ErrKeyDisabled}
	// ErrTooEarly means that a branch key can't be destroyed yet: it, or a part of it, is not
	// disabled, or has not been for long enough.
	ErrTooEarly = errors.New("branch key can't be destroyed yet")
	// ErrExists means that there is or was a branch key of the same ID.
	ErrExists = errors.New("branch key exists")
	// ErrConflict means that another administrator changed a branch key at the same time. Nothing
	// was written. Look at it to see whether the change is still needed.
	ErrConflict = errors.New("branch key was changed at the same time")
)

// Kinds of ErrDamaged and ErrTooEarly, with texts of their own.
var (
	errRefused          error = &wrappedError{"item of the branch key table was changed", ErrDamaged}
	errHierarchyVersion error = &wrappedError{"hierarchy-version of a branch key is not supported", ErrDamaged}
	errIncomplete       error = &wrappedError{"branch key is incomplete", ErrDamaged}
	errNotDisabled      error = &wrappedError{"branch key is not disabled", ErrTooEarly}
)

// wrappedError has a text of its own, in place of that of the error that it holds.
type wrappedError struct {
	text string
	held error
}

func (e *wrappedError) Error() string { return e.text }

func (e *wrappedError) Unwrap() error { return e.held }
