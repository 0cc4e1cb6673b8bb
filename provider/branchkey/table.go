package branchkey

import (
	"context"
	"iter"
)

// table is where a Store keeps its items: one in DynamoDB or, for development and tests, in a file.
// It finds an item by two attributes, "branch-key-id" and "type". Implementations are safe for
// concurrent use.
type table interface {
	// Name returns the table's name.
	Name() string

	// Create makes the table if it does not exist. If there is one of another form, the error holds
	// provider.ErrInvalidKey.
	Create(ctx context.Context) error

	// Get returns one item as it is now. The error holds provider.ErrKeyNotFound if there is none,
	// ErrNoTable if there is no table, and ErrDamaged if an attribute has a wrong type.
	Get(ctx context.Context, id, kind string) (tableItem, error)

	// All yields all items of one branch key as they are now, in any order. If an error holds
	// ErrDamaged, the item that comes with it has only the two attributes, and All goes on with the
	// other items. Any other error is the end.
	All(ctx context.Context, id string) iter.Seq2[tableItem, error]

	// Active yields the active item of every branch key, as All does, including those that are
	// disabled or destroyed. It reads the whole table.
	Active(ctx context.Context) iter.Seq2[tableItem, error]

	// Write writes up to maxWrites items: all of them, or none if a condition is not met. Then the
	// error holds ErrConflict.
	Write(ctx context.Context, writes []tableWrite) error
}

// tableWrite is one item to write, on the condition that nobody else has written it before.
type tableWrite struct {
	Item     tableItem
	Replaces []byte // the Enc that the item must have now; nil if there must be no item
}

// maxWrites is the number of items that are written at once (Amazon DynamoDB API Reference,
// "TransactWriteItems").
const maxWrites = 100
