package branchkey

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// state is whether a branch key can be used, as its items and errors name it.
type state string

const (
	stateEnabled   state = "enabled"
	stateDisabled  state = "disabled"  // its keys are set aside, and Store.Enable brings them back
	stateDestroyed state = "destroyed" // its keys are gone for good
)

// Attributes of an item of a branch key that is disabled or destroyed. It stays in its place in the
// table, so that no branch key of the same ID can be made. AWS's libraries find no "kms-arn" in it,
// and refuse it before they ask KMS.
const (
	attributeState     = "pikokms-state"
	attributeDisabled  = "pikokms-disabled"  // when
	attributeDestroyed = "pikokms-destroyed" // when
	attributeItem      = "pikokms-item"      // of a disabled one: the item as it was, in JSON
	attributeWas       = "pikokms-was:"      // of a destroyed one: begins the name of an attribute that it had
)

// remembered are the attributes of an item that stay when it is destroyed. The branch key's own
// encryption context, which may name a person, does not.
var remembered = []string{attributeVersion, attributeKeyARN, attributeCreated}

func destroyedError(id string, at time.Time) error {
	return &wrappedError{fmt.Sprintf("branch key %q was destroyed on %s; what is encrypted under it can't be read any more", id, at.Format(time.RFC3339)), ErrDestroyed}
}

// err returns why a branch key can't be used in a state, or nil.
func (s state) err(id string, disabled, destroyed time.Time) error {
	switch s {
	case stateDisabled:
		return &wrappedError{fmt.Sprintf("branch key %q is disabled since %s; enable it to use it", id, disabled.Format(time.RFC3339)), ErrDisabled}
	case stateDestroyed:
		return destroyedError(id, destroyed)
	}
	return nil
}

// check returns an error if a branch key can't be used because of the state of one of its items.
func (r *record) check() error { return r.state.err(r.id, r.disabled, r.destroyed) }

// marked returns an item to store in the place of i, for a state. Its "enc" is not a wrapped key,
// but a unique text, so that a write that replaces it replaces exactly this item.
func (i tableItem) marked(as state) tableItem {
	return tableItem{
		Attributes: map[string]string{attributeID: i.Attributes[attributeID], attributeKind: i.Attributes[attributeKind], attributeState: string(as)},
		Enc:        fmt.Appendf(nil, "pikokms: %s %s", as, uuid.NewString()),
	}
}

// setAside returns what the table has in an item's place while its branch key is disabled.
func setAside(item tableItem, since time.Time) (tableItem, error) {
	text, err := json.Marshal(item)
	if err != nil {
		return tableItem{}, err
	}
	aside := item.marked(stateDisabled)
	aside.Attributes[attributeDisabled] = since.UTC().Format(createdLayout)
	aside.Attributes[attributeItem] = string(text)
	return aside, nil
}

// tombstone returns what the table has in an item's place once its branch key is destroyed.
func (r *record) tombstone(at time.Time) tableItem {
	tombstone := r.marked(stateDestroyed)
	tombstone.Attributes[attributeDestroyed] = at.UTC().Format(createdLayout)
	if !r.disabled.IsZero() {
		tombstone.Attributes[attributeDisabled] = r.disabled.UTC().Format(createdLayout)
	}
	for _, name := range remembered {
		if value := r.Attributes[name]; value != "" {
			tombstone.Attributes[attributeWas+name] = value
		}
	}
	return tombstone
}

// parseMarked parses an item of a branch key that is disabled or destroyed. The error holds
// ErrDamaged.
func parseMarked(item tableItem) (r *record, err error) {
	a := item.Attributes
	current := state(a[attributeState])
	inside := tableItem{Attributes: map[string]string{attributeID: a[attributeID], attributeKind: a[attributeKind]}}
	switch current {
	case stateDisabled:
		if err := json.Unmarshal([]byte(a[attributeItem]), &inside); err != nil {
			return nil, damaged(item, "what is set aside in it is no item: %v", err)
		}
		if r, err = parseEnabled(inside); err != nil {
			return nil, err
		}
		if r.id != a[attributeID] || r.kind != a[attributeKind] {
			return nil, damaged(item, "item %q of branch key %q is set aside in it", r.kind, r.id)
		}
	case stateDestroyed:
		if r, err = parseTombstone(item); err != nil {
			return nil, err
		}
	default:
		return nil, damaged(item, "its attribute %q is %q, which this version of pikokms does not know", attributeState, current)
	}
	r.stored, r.state = item, current
	if r.disabled, err = time.Parse(time.RFC3339Nano, a[attributeDisabled]); err != nil && (current == stateDisabled || a[attributeDisabled] != "") {
		return nil, damaged(item, "its attribute %q, %q, is not of ISO 8601", attributeDisabled, a[attributeDisabled])
	}
	return r, nil
}

func parseTombstone(item tableItem) (r *record, err error) {
	a := item.Attributes
	kept := tableItem{Attributes: map[string]string{attributeID: a[attributeID], attributeKind: a[attributeKind]}}
	for _, name := range remembered {
		kept.Attributes[name] = a[attributeWas+name]
	}
	r = &record{tableItem: kept, id: a[attributeID], kind: a[attributeKind], keyARN: kept.Attributes[attributeKeyARN]}
	if r.destroyed, err = time.Parse(time.RFC3339Nano, a[attributeDestroyed]); err != nil {
		return nil, damaged(item, "its attribute %q, %q, is not of ISO 8601", attributeDestroyed, a[attributeDestroyed])
	}
	if r.created, err = time.Parse(time.RFC3339Nano, kept.Attributes[attributeCreated]); err != nil {
		return nil, damaged(item, "its creation time %q is not of ISO 8601", kept.Attributes[attributeCreated])
	}
	if r.kind == kindBeacon {
		return r, nil
	}
	versioned := r.kind
	if r.kind == kindActive {
		versioned = kept.Attributes[attributeVersion]
	}
	if r.version, err = parseVersion(versioned); err != nil {
		return nil, damaged(item, "%v", err)
	}
	return r, nil
}

// storing returns what to store in the record's place for another item: the item, or the item set
// aside while the branch key is disabled.
func (r *record) storing(item tableItem) (tableItem, error) {
	if r.state == stateDisabled {
		return setAside(item, r.disabled)
	}
	return item, nil
}
