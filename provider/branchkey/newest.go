package branchkey

import (
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/google/uuid"
)

// newest remembers, for each branch key of a table, the newest version that KMS has unwrapped in
// this process. An active version that is older means that the table was rolled back. It takes some
// 200 bytes for each branch key that the process has used, and forgets none.
type newest struct {
	mu   sync.Mutex
	seen map[string]seen // by branch key ID

	// active is what the table last named as the active version, by branch key ID. It is not
	// authenticated, and only says which item is worth asking for.
	active map[string]uuid.UUID

	// destroyed has the branch keys of which the process has seen that they are destroyed, and when
	// they were.
	destroyed map[string]time.Time
}

type seen struct {
	version uuid.UUID
	created time.Time
}

// newestOf keeps the newest versions for as long as the process lives, by table. So all Stores and
// Providers share them.
var newestOf sync.Map // of *newest, by place

// place identifies a table. Tables of one name in two Regions, two accounts or two folders have
// nothing in common.
type place struct{ table, account, logicalName string }

// placed is a table that a text identifies. For any other table, each Store keeps the newest
// versions for itself.
type placed interface{ place() string }

func newNewest(t table, k kms, logicalName string) *newest {
	n := &newest{seen: make(map[string]seen), active: make(map[string]uuid.UUID), destroyed: make(map[string]time.Time)}
	p, ok := t.(placed)
	if !ok {
		return n
	}
	own, _ := arn.Parse(k.KeyARN()) // without a key of its own, the account is not known
	shared, _ := newestOf.LoadOrStore(place{p.place(), own.AccountID, logicalName}, n)
	return shared.(*newest)
}

// activeVersion returns what the table last named as the active version of a branch key.
func (n *newest) activeVersion(id string) (version uuid.UUID, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	version, known = n.active[id]
	return version, known
}

// noteActive records what the table names as the active version.
func (n *newest) noteActive(r *record) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.active[r.id] = r.version
}

// admit records a version that KMS has authenticated. It refuses an active version that is older
// than one that the process has seen. The error holds ErrRolledBack.
func (n *newest) admit(r *record) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, known := n.seen[r.id]
	switch {
	case !known || r.created.After(s.created):
		n.seen[r.id] = seen{r.version, r.created}
	case r.kind == kindActive && r.version != s.version && r.created.Before(s.created):
		return fmt.Errorf("%w: this process has seen version %s of %s, and the table now has %s of %s; restart the process if the table was restored from a backup",
			ErrRolledBack, s.version, s.created, r.version, r.created)
	}
	return nil
}

// noteDestroyed records that a branch key is destroyed, if one of its items says so.
func (n *newest) noteDestroyed(r *record) {
	if r.state != stateDestroyed {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if r.destroyed.After(n.destroyed[r.id]) {
		n.destroyed[r.id] = r.destroyed
	}
}

// sawDestroyed returns an error if the process has seen that a branch key is destroyed. It holds
// ErrDestroyed.
func (n *newest) sawDestroyed(id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if at, ok := n.destroyed[id]; ok {
		return destroyedError(id, at)
	}
	return nil
}

// refuseDestroyed returns an error about a branch key that the table has, if the process has seen
// that it is destroyed. The error holds ErrDestroyed and ErrRolledBack.
func (n *newest) refuseDestroyed(id string) error {
	if err := n.sawDestroyed(id); err != nil {
		return fmt.Errorf("%w: this process has seen that, and the table has it again; destroy it again, or restart the process if it is to come back: %w", err, ErrRolledBack)
	}
	return nil
}
