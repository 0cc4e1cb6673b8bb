package branchkey

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"piko.sh/pikokms/provider"
)

// Table is where a Store keeps its items: that of [NewDynamoDB], or of [NewFile] for development
// and tests. It finds an item by two attributes, "branch-key-id" and "type". Implementations are
// safe for concurrent use.
type Table interface {
	// Name returns the table's name.
	Name() string

	// Create makes the table if it does not exist. If there is one of another form, the error holds
	// provider.ErrInvalidKey.
	Create(ctx context.Context) error

	// Get returns one item as it is now. The error holds provider.ErrKeyNotFound if there is none,
	// ErrNoTable if there is no table, and ErrDamaged if an attribute has a wrong type.
	Get(ctx context.Context, id, kind string) (Item, error)

	// All yields all items of one branch key as they are now, in any order. With an error that
	// holds ErrDamaged comes an item that has the two attributes alone, and All goes on with the
	// others. Any other error is the end.
	All(ctx context.Context, id string) iter.Seq2[Item, error]

	// Active yields the active item of every branch key, as All does, also of those that are
	// disabled or destroyed. It reads the whole table.
	Active(ctx context.Context) iter.Seq2[Item, error]

	// Write writes up to MaxWrites items: all of them, or none if a condition is not met. Then the
	// error holds ErrConflict.
	Write(ctx context.Context, writes []Write) error
}

// Write is one item to write, on the condition that nobody else has written it before.
type Write struct {
	Item     Item
	Replaces []byte // the Enc that the item must have now; nil if there must be no item
}

// MaxWrites is the number of items that are written at once (Amazon DynamoDB API Reference,
// "TransactWriteItems").
const MaxWrites = 100

// Errors of key stores. Errors of KMS and of tables hold those of package provider.
var (
	// ErrNoTable means that the table does not exist. It holds provider.ErrKeyNotFound.
	ErrNoTable = fmt.Errorf("%w: no table of branch keys", provider.ErrKeyNotFound)
	// ErrDamaged means that an item does not have the specified form.
	ErrDamaged = errors.New("item of the branch key table is damaged")
	// ErrRefused means that KMS does not unwrap an item's key under the item's attributes. The item
	// was changed, moved from another branch key or table, or is of a table with another logical
	// name.
	ErrRefused = errors.New("item of the branch key table was changed")
	// ErrHierarchyVersion means that an item has a form that is newer than this package.
	ErrHierarchyVersion = errors.New("hierarchy-version of a branch key is not supported")
	// ErrRolledBack means that a branch key's active version is older than another one that it has,
	// or that this process has seen of it.
	ErrRolledBack = errors.New("active version of the branch key was rolled back")
	// ErrIncomplete means that an item of a branch key is missing.
	ErrIncomplete = errors.New("branch key is incomplete")
	// ErrDisabled means that a branch key is disabled. It holds provider.ErrKeyDisabled.
	ErrDisabled error = unusable("branch key is disabled")
	// ErrDestroyed means that a branch key was destroyed. It holds provider.ErrKeyDisabled.
	ErrDestroyed error = unusable("branch key was destroyed")
	// ErrNotDisabled means that a branch key, or a part of it, is not disabled, as it must be before
	// it is destroyed.
	ErrNotDisabled = errors.New("branch key is not disabled")
	// ErrTooEarly means that a branch key has not been disabled for long enough to be destroyed.
	ErrTooEarly = errors.New("branch key can't be destroyed yet")
	// ErrExists means that there is or was a branch key of the same ID.
	ErrExists = errors.New("branch key exists")
	// ErrConflict means that another administrator changed a branch key at the same time. Nothing
	// was written. Look at it to see whether the change is still needed.
	ErrConflict = errors.New("branch key was changed at the same time")
)
