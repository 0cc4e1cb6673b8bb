package branchkey

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/google/uuid"
)

// Attributes of an item (specification: framework/branch-key-store.md, "Record Format").
const (
	attributeID        = "branch-key-id"
	attributeKind      = "type"
	attributeVersion   = "version" // only of the active item
	attributeEnc       = "enc"
	attributeKeyARN    = "kms-arn"
	attributeCreated   = "create-time"
	attributeHierarchy = "hierarchy-version"
	attributeContext   = "aws-crypto-ec:" // begins the name of each pair of the branch key's own context
	attributeTable     = "tablename"      // only in the encryption context, never in an item
)

// Values of the attribute "type".
const (
	kindActive  = "branch:ACTIVE"
	kindBeacon  = "beacon:ACTIVE"
	kindVersion = "branch:version:" // then the version's UUID
)

const hierarchyVersion = "1"

// createdLayout has microseconds, as the specification requires for the attribute "create-time".
const createdLayout = "2006-01-02T15:04:05.000000Z"

// maxEnc bounds the wrapped key of an item in bytes. KMS takes no larger ciphertext (KMS API
// Reference, "Decrypt").
const maxEnc = 6144

// tableItem is one item of a table: a wrapped key, and the attributes to which KMS binds it. A
// branch key has an item for each version, a copy of its active version, and a beacon key, which
// AWS's Database Encryption SDK uses.
//
// The JSON form is an object of strings, in which "enc" is base64 (specification:
// framework/branch-key-store.md, "Example").
type tableItem struct {
	Attributes map[string]string // all but "enc"; the hierarchy version, a number, is its decimal text
	Enc        []byte            // the wrapped key
}

// MarshalJSON implements json.Marshaler.
func (i tableItem) MarshalJSON() ([]byte, error) {
	members := make(map[string]any, len(i.Attributes)+1)
	for name, value := range i.Attributes {
		members[name] = value
	}
	members[attributeEnc] = i.Enc
	return json.Marshal(members)
}

// UnmarshalJSON implements json.Unmarshaler. The error holds ErrDamaged.
func (i *tableItem) UnmarshalJSON(text []byte) error {
	var enc struct {
		Enc []byte `json:"enc"`
	}
	attributes := make(map[string]string)
	if err := errors.Join(json.Unmarshal(text, &attributes), json.Unmarshal(text, &enc)); err != nil {
		return fmt.Errorf("%w: its JSON is no object of strings: %w", ErrDamaged, err)
	}
	delete(attributes, attributeEnc)
	*i = tableItem{attributes, enc.Enc}
	return nil
}

// record is an item that has the specified form. Only KMS can authenticate its attributes.
type record struct {
	tableItem           // as it is while its branch key is enabled; without a key once that is destroyed
	stored    tableItem // as it is in the table now
	state     state
	id        string
	kind      string
	version   uuid.UUID // zero for a beacon key
	keyARN    string
	created   time.Time

	disabled, destroyed time.Time // zero if it is not
}

// parse checks the form of an item. The error holds ErrDamaged.
func parse(item tableItem) (*record, error) {
	if _, ok := item.Attributes[attributeState]; ok {
		return parseMarked(item)
	}
	return parseEnabled(item)
}

// parseEnabled checks the form of an item of a branch key that is enabled.
func parseEnabled(item tableItem) (*record, error) {
	a := item.Attributes
	r := &record{tableItem: item, stored: item, state: stateEnabled, id: a[attributeID], kind: a[attributeKind], keyARN: a[attributeKeyARN]}
	for _, name := range []string{attributeID, attributeKind, attributeKeyARN, attributeCreated, attributeHierarchy} {
		if a[name] == "" {
			return nil, damaged(item, "it has no attribute %q", name)
		}
	}
	if h := a[attributeHierarchy]; h != hierarchyVersion {
		return nil, fmt.Errorf("%w: branch key %q, item %q has hierarchy-version %q, and this version of pikokms knows hierarchy-version 1", errHierarchyVersion, r.id, r.kind, h)
	}
	if _, reserved := a[attributeTable]; reserved {
		return nil, damaged(item, "it has an attribute %q, which only the encryption context has", attributeTable)
	}
	if len(item.Enc) == 0 || len(item.Enc) > maxEnc {
		return nil, damaged(item, "its wrapped key has %d bytes, KMS makes 1 to %d", len(item.Enc), maxEnc)
	}
	if !isKeyARN(r.keyARN) {
		return nil, damaged(item, "%q is not the ARN of a key", r.keyARN)
	}
	var err error
	if r.created, err = time.Parse(time.RFC3339Nano, a[attributeCreated]); err != nil {
		return nil, damaged(item, "its creation time %q is not of ISO 8601", a[attributeCreated])
	}
	versioned, hasVersion := a[attributeVersion]
	switch {
	case r.kind == kindActive:
	case hasVersion:
		return nil, damaged(item, "only an active item has an attribute %q", attributeVersion)
	case r.kind == kindBeacon:
		return r, nil
	default:
		versioned = r.kind
	}
	if r.version, err = parseVersion(versioned); err != nil {
		return nil, damaged(item, "%v", err)
	}
	return r, nil
}

// damaged returns the error of an item that does not have the specified form.
func damaged(item tableItem, format string, arguments ...any) error {
	return fmt.Errorf("%w: branch key %q, item %q: %s", ErrDamaged, item.Attributes[attributeID], item.Attributes[attributeKind], fmt.Sprintf(format, arguments...))
}

// parseVersion returns the UUID of a text like "branch:version:" and a UUID in its usual form.
func parseVersion(text string) (uuid.UUID, error) {
	name, ok := strings.CutPrefix(text, kindVersion)
	id, err := uuid.Parse(name)
	if !ok || err != nil || id.String() != name {
		return uuid.Nil, fmt.Errorf("%q is not a version, which is %q and a UUID", text, kindVersion)
	}
	return id, nil
}

func isKeyARN(text string) bool {
	a, err := arn.Parse(text)
	name, ok := strings.CutPrefix(a.Resource, "key/")
	return err == nil && ok && name != "" && a.Service == "kms" && a.Partition != "" && a.Region != "" && a.AccountID != ""
}

// encryptionContext returns the context to which KMS binds an item's key: all attributes but the
// key itself, and the table's logical name (specification: framework/branch-key-store.md,
// "Encryption Context").
func (i tableItem) encryptionContext(logicalName string) map[string]string {
	pairs := maps.Clone(i.Attributes)
	pairs[attributeTable] = logicalName
	return pairs
}

// with returns an item with other attributes, for which no key is wrapped yet. A change to ""
// removes an attribute.
func (i tableItem) with(changes map[string]string) tableItem {
	attributes := maps.Clone(i.Attributes)
	for name, value := range changes {
		if attributes[name] = value; value == "" {
			delete(attributes, name)
		}
	}
	return tableItem{Attributes: attributes}
}

// ownContext returns the branch key's own encryption context, which its creator stated.
func (i tableItem) ownContext() map[string]string {
	pairs := make(map[string]string)
	for name, value := range i.Attributes {
		if key, ok := strings.CutPrefix(name, attributeContext); ok {
			pairs[key] = value
		}
	}
	return pairs
}
