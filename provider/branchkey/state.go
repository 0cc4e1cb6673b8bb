package branchkey

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"piko.sh/pikokms/provider"
)

// State is whether a branch key can be used.
type State string

// The states of a branch key.
const (
	Enabled   State = "enabled"
	Disabled  State = "disabled"  // its keys are set aside, and Store.Enable brings them back
	Destroyed State = "destroyed" // its keys are gone for good
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

// unusable is the kind of ErrDisabled and ErrDestroyed.
type unusable string

func (u unusable) Error() string { return string(u) }

// Unwrap returns the error of package provider that means the same.
func (u unusable) Unwrap() error { return provider.ErrKeyDisabled }

// unusableError names the branch key, and the time since when it can't be used.
type unusableError struct {
	text  string
	cause error
}

func (e *unusableError) Error() string { return e.text }

func (e *unusableError) Unwrap() error { return e.cause }

func destroyedError(id string, at time.Time) error {
	return &unusableError{fmt.Sprintf("branch key %q was destroyed on %s; what is encrypted under it can't be read any more", id, at.Format(time.RFC3339)), ErrDestroyed}
}

// check returns an error if a branch key can't be used because of the state of one of its items.
func (r *record) check() error {
	switch r.state {
	case Disabled:
		return &unusableError{fmt.Sprintf("branch key %q is disabled since %s; enable it to use it", r.id, r.disabled.Format(time.RFC3339)), ErrDisabled}
	case Destroyed:
		return destroyedError(r.id, r.destroyed)
	}
	return nil
}

// marked returns an item in the place of another, for a state. Its "enc" is no wrapped key, but
// another one each time, so that a Write that replaces it replaces exactly this one.
func (i Item) marked(state State) Item {
	return Item{
		Attributes: map[string]string{attributeID: i.Attributes[attributeID], attributeKind: i.Attributes[attributeKind], attributeState: string(state)},
		Enc:        fmt.Appendf(nil, "pikokms: %s %s", state, uuid.NewString()),
	}
}

// setAside returns what stands in an item's place while its branch key is disabled.
func setAside(item Item, since time.Time) (Item, error) {
	text, err := json.Marshal(item)
	if err != nil {
		return Item{}, err
	}
	aside := item.marked(Disabled)
	aside.Attributes[attributeDisabled] = since.UTC().Format(createdLayout)
	aside.Attributes[attributeItem] = string(text)
	return aside, nil
}

// tombstone returns what stands in an item's place once its branch key is destroyed.
func (r *record) tombstone(at time.Time) Item {
	tombstone := r.marked(Destroyed)
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
func parseMarked(item Item) (r *record, err error) {
	a := item.Attributes
	state := State(a[attributeState])
	inside := Item{Attributes: map[string]string{attributeID: a[attributeID], attributeKind: a[attributeKind]}}
	switch state {
	case Disabled:
		if err := json.Unmarshal([]byte(a[attributeItem]), &inside); err != nil {
			return nil, damaged(item, "what is set aside in it is no item: %v", err)
		}
		if r, err = parseEnabled(inside); err != nil {
			return nil, err
		}
		if r.id != a[attributeID] || r.kind != a[attributeKind] {
			return nil, damaged(item, "item %q of branch key %q is set aside in it", r.kind, r.id)
		}
	case Destroyed:
		if r, err = parseTombstone(item); err != nil {
			return nil, err
		}
	default:
		return nil, damaged(item, "its attribute %q is %q, which this version of pikokms does not know", attributeState, state)
	}
	r.stored, r.state = item, state
	if r.disabled, err = time.Parse(time.RFC3339Nano, a[attributeDisabled]); err != nil && (state == Disabled || a[attributeDisabled] != "") {
		return nil, damaged(item, "its attribute %q, %q, is not of ISO 8601", attributeDisabled, a[attributeDisabled])
	}
	return r, nil
}

func parseTombstone(item Item) (r *record, err error) {
	a := item.Attributes
	kept := Item{Attributes: map[string]string{attributeID: a[attributeID], attributeKind: a[attributeKind]}}
	for _, name := range remembered {
		kept.Attributes[name] = a[attributeWas+name]
	}
	r = &record{Item: kept, id: a[attributeID], kind: a[attributeKind], keyARN: kept.Attributes[attributeKeyARN]}
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
func (r *record) storing(item Item) (Item, error) {
	if r.state == Disabled {
		return setAside(item, r.disabled)
	}
	return item, nil
}
