package branchkey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"golang.org/x/text/unicode/norm"

	"piko.sh/pikokms/internal/kmswrap"
	"piko.sh/pikokms/provider"
)

// maxID bounds a branch key ID in bytes (Amazon DynamoDB Developer Guide, "Quotas", partition
// keys).
const maxID = 2048

// Store keeps branch keys: random keys that KMS wraps, in a table (specification:
// framework/branch-key-store.md). It is safe for concurrent use, and several processes can use one
// table.
type Store struct {
	table       table
	kms         kms
	logicalName string
	newest      *newest
	close       func() error // may be nil
}

// NewStore makes a Store on the table and the keys of a configuration. It asks neither the table
// nor KMS. The caller closes it. The error holds provider.ErrInvalidKey.
func NewStore(ctx context.Context, c Config) (*Store, error) {
	table, err := c.openTable(ctx)
	if err != nil {
		return nil, err
	}
	if len(c.Masters) == 0 {
		keys, err := kmswrap.New(ctx, c.KMS)
		if err != nil {
			return nil, err
		}
		return newStore(table, keys, c.LogicalName), nil
	}
	keys, err := newLocalKMS(c.Masters)
	if err != nil {
		return nil, err
	}
	s := newStore(table, keys, c.LogicalName)
	s.close = keys.Close
	return s, nil
}

func newStore(t table, keys kms, logicalName string) *Store {
	name := cmp.Or(logicalName, t.Name())
	return &Store{table: t, kms: keys, logicalName: name, newest: newNewest(t, keys, name)}
}

// Close zeroes the local keys that wrap branch keys, if there are any.
func (s *Store) Close() error {
	if s.close == nil {
		return nil
	}
	return s.close()
}

// LogicalName returns the name that is bound to every key of the table.
func (s *Store) LogicalName() string { return s.logicalName }

// KeyARN returns the ARN of the KMS key that wraps new keys, or nothing if none may.
func (s *Store) KeyARN() string { return s.kms.KeyARN() }

// CreateTable makes the table if it does not exist. A table in DynamoDB is billed by request and
// protected against deletion. CreateTable waits until it can be used, for at most five minutes, and
// needs dynamodb:CreateTable and dynamodb:DescribeTable. The error holds provider.ErrInvalidKey for
// a table of that name that can't hold branch keys.
func (s *Store) CreateTable(ctx context.Context) error {
	return s.fail("CreateTable", "", s.table.Create(ctx))
}

// Create makes a branch key, its first version and its beacon key, and returns its ID. An empty id
// means a random UUID. With an ID of one's own, the branch key needs an encryption context of its
// own, to which KMS binds its items; it is visible in the table and in CloudTrail. The error holds
// ErrExists if there is a branch key of the same ID.
//
// An ID has no invisible characters, no blanks but single spaces within, and is in the normal form
// NFKC of Unicode, so that no two IDs look the same. Otherwise the error holds
// provider.ErrInvalidKey. IDs are compared byte by byte, so "acme" and "Acme" are two.
//
// It makes three calls of KMS and one of the table.
func (s *Store) Create(ctx context.Context, id string, ownContext map[string]string) (string, error) {
	if id == "" {
		id = uuid.NewString()
	} else if len(ownContext) == 0 {
		return "", s.fail("Create", id, fmt.Errorf("%w: a branch key with an ID of one's own needs an encryption context of its own, such as tenant=42", provider.ErrInvalidKey))
	}
	if err := s.create(ctx, id, ownContext); err != nil {
		return "", s.fail("Create", id, err)
	}
	return id, nil
}

func (s *Store) create(ctx context.Context, id string, ownContext map[string]string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := s.newest.sawDestroyed(id); err != nil {
		return takenBy(err)
	}
	keyARN, err := s.wrappingKey()
	if err != nil {
		return err
	}
	attributes := map[string]string{
		attributeID: id, attributeKeyARN: keyARN, attributeHierarchy: hierarchyVersion,
		attributeCreated: time.Now().UTC().Format(createdLayout),
	}
	for name, value := range ownContext {
		if name == "" || value == "" || !utf8.ValidString(name) || !utf8.ValidString(value) {
			return fmt.Errorf("%w: a pair of the branch key's encryption context is empty or not UTF-8", provider.ErrInvalidKey)
		}
		attributes[attributeContext+name] = value
	}
	version, active, err := s.newVersion(ctx, keyARN, tableItem{Attributes: attributes})
	if err != nil {
		return err
	}
	beacon := tableItem{Attributes: attributes}.with(map[string]string{attributeKind: kindBeacon})
	if beacon.Enc, err = s.kms.Generate(ctx, keyARN, beacon.encryptionContext(s.logicalName)); err != nil {
		return err
	}
	err = s.table.Write(ctx, []tableWrite{{Item: version}, {Item: active}, {Item: beacon}})
	if errors.Is(err, ErrConflict) {
		return s.exists(ctx, id)
	}
	return err
}

// exists returns the error for an ID that is taken.
func (s *Store) exists(ctx context.Context, id string) error {
	if _, err := s.get(ctx, id, kindActive); isUnusable(err) {
		return takenBy(err)
	}
	return fmt.Errorf("%w: choose another ID, or make a new version of it", ErrExists)
}

// takenBy returns the error for the ID of a branch key that is disabled or destroyed.
func takenBy(err error) error { return fmt.Errorf("%w: choose another ID: %w", ErrExists, err) }

// checkID refuses an ID that people could mistake for another one. A Supplier could otherwise pick
// another tenant's branch key, or none.
func checkID(id string) error {
	switch {
	case len(id) > maxID || !utf8.ValidString(id):
		return fmt.Errorf("%w: a branch key ID is UTF-8 of at most %d bytes", provider.ErrInvalidKey, maxID)
	case strings.TrimSpace(id) != id || strings.Contains(id, "  "):
		return fmt.Errorf("%w: branch key ID %q has blanks at an end, or several in a row", provider.ErrInvalidKey, id)
	case strings.ContainsFunc(id, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("%w: branch key ID %q has a character that can't be seen", provider.ErrInvalidKey, id)
	case !norm.NFKC.IsNormalString(id):
		return fmt.Errorf("%w: branch key ID %q looks like %q and is written otherwise; use that one", provider.ErrInvalidKey, id, norm.NFKC.String(id))
	}
	return nil
}

// wrappingKey returns the ARN of the key that wraps new keys.
func (s *Store) wrappingKey() (string, error) {
	keyARN := s.kms.KeyARN()
	if keyARN == "" {
		return "", fmt.Errorf("%w: discovery only reads branch keys; state the ARN of the KMS key", provider.ErrKeyUsage)
	}
	return keyARN, nil
}

// newVersion makes the two items of a new version, its own and the active one, under a KMS key. It
// takes all other attributes from template.
func (s *Store) newVersion(ctx context.Context, keyARN string, template tableItem) (version, active tableItem, err error) {
	kind := kindVersion + uuid.NewString()
	version = template.with(map[string]string{attributeKind: kind, attributeVersion: ""})
	active = template.with(map[string]string{attributeKind: kindActive, attributeVersion: kind})
	from, to := version.encryptionContext(s.logicalName), active.encryptionContext(s.logicalName)
	if version.Enc, err = s.kms.Generate(ctx, keyARN, from); err != nil {
		return version, active, err
	}
	active.Enc, err = s.kms.ReEncrypt(ctx, version.Enc, keyARN, from, keyARN, to)
	return version, active, err
}

// CreateVersion makes a new version of a branch key, which is the active one from then on, and
// returns its UUID. Messages under older versions still open. Processes go on encrypting under the
// version that they have cached until its TTL has passed.
//
// KMS first checks that the active version is genuine, and so is the item of its own that it must
// have, too. Otherwise the active item may be the last copy of that version's key, and is not
// replaced. If there is no such item, the error holds ErrDamaged. If another administrator makes
// a version at the same time, one of the two gets an error that holds ErrConflict, and nothing of
// theirs is written. The branch key stays under its KMS key, which must be the store's own; Move
// changes it.
//
// It makes four calls of KMS and three of the table.
func (s *Store) CreateVersion(ctx context.Context, id string) (string, error) {
	version, err := s.version(ctx, id)
	return version, s.fail("Version", id, err)
}

func (s *Store) version(ctx context.Context, id string) (string, error) {
	keyARN, err := s.wrappingKey()
	if err != nil {
		return "", err
	}
	old, err := s.get(ctx, id, kindActive)
	if err != nil {
		return "", err
	}
	under, err := s.kms.Trusts(old.keyARN)
	if err != nil {
		return "", err
	}
	if under != keyARN {
		return "", fmt.Errorf("%w: the branch key is under %s and new keys are under %s; move it first", provider.ErrInvalidKey, old.keyARN, keyARN)
	}
	if err := s.authenticate(ctx, old, under); err != nil {
		return "", err
	}
	ownItem, err := s.get(ctx, id, kindVersion+old.version.String())
	if errors.Is(err, provider.ErrKeyNotFound) {
		return "", incomplete(old)
	}
	if err != nil {
		return "", err
	}
	if err := s.checkItem(ctx, ownItem); err != nil {
		return "", err
	}
	// A clock that is behind must not make the new version look older than the one before.
	created := time.Now().UTC().Truncate(time.Microsecond)
	if !created.After(old.created) {
		created = old.created.UTC().Add(time.Microsecond)
	}
	template := old.with(map[string]string{attributeCreated: created.Format(createdLayout)})
	version, active, err := s.newVersion(ctx, keyARN, template)
	if err != nil {
		return "", err
	}
	if err := s.table.Write(ctx, []tableWrite{{Item: version}, {Item: active, Replaces: old.Enc}}); err != nil {
		return "", err
	}
	return version.Attributes[attributeKind][len(kindVersion):], nil
}

// get returns an item of a branch key that is enabled. It has the specified form and is the one
// that was asked for.
func (s *Store) get(ctx context.Context, id, kind string) (*record, error) {
	r, err := s.find(ctx, id, kind)
	if err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	if err := s.newest.refuseDestroyed(id); err != nil {
		return nil, err
	}
	return r, nil
}

// find does what get does, for an item in any state.
func (s *Store) find(ctx context.Context, id, kind string) (*record, error) {
	item, err := s.table.Get(ctx, id, kind)
	if err != nil {
		return nil, err
	}
	r, err := parse(item)
	if err != nil {
		return nil, err
	}
	if r.id != id || r.kind != kind {
		return nil, fmt.Errorf("%w: the table was asked for item %q of branch key %q and answered with %q of %q", ErrDamaged, kind, id, r.kind, r.id)
	}
	s.newest.noteDestroyed(r)
	return r, nil
}

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
			s.newest.noteDestroyed(r)
			records = append(records, r)
		case errors.Is(err, ErrDamaged): // which is about one item alone
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

// authenticate checks by KMS, which is asked under an ARN, that an item's attributes are those with
// which its key was wrapped (specification: framework/branch-key-store.md, "Authenticating a
// Keystore item").
func (s *Store) authenticate(ctx context.Context, r *record, under string) error {
	pairs := r.encryptionContext(s.logicalName)
	_, err := s.kms.ReEncrypt(ctx, r.Enc, under, pairs, under, pairs)
	return s.aboutItem(r, err)
}

// aboutItem adds the name of an item to an error of KMS about it. If KMS refused the item, the
// error holds ErrDamaged.
func (s *Store) aboutItem(r *record, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, provider.ErrDecryptionFailed):
		return fmt.Errorf("%w: %q, under the logical name %q; restore it from a backup, or state the table's own logical name: %w", errRefused, r.kind, s.logicalName, err)
	}
	return fmt.Errorf("item %q: %w", r.kind, err)
}

// unwrap asks KMS for the key of an item. The caller closes it.
func (s *Store) unwrap(ctx context.Context, r *record) (*provider.SecureBytes, error) {
	under, err := s.kms.Trusts(r.keyARN)
	if err != nil {
		return nil, err
	}
	key, err := s.kms.Decrypt(ctx, under, r.Enc, r.encryptionContext(s.logicalName))
	if err != nil {
		return nil, s.aboutItem(r, err)
	}
	if key.Len() != branchKeySize {
		return nil, errors.Join(fmt.Errorf("%w: %q holds a key of %d bytes, branch keys have %d", ErrDamaged, r.kind, key.Len(), branchKeySize), key.Close())
	}
	return key, nil
}

// Description describes a branch key, without its keys. It is as in the table; only Check
// authenticates it.
type Description struct {
	ID       string
	Context  map[string]string // the branch key's own encryption context; nothing once it is destroyed
	Active   Version           // the version under which messages are encrypted
	Versions []Version         // all versions, the oldest first; List leaves them out

	Err       error     // why it can't be used, which holds ErrDisabled or ErrDestroyed, or nil
	Disabled  time.Time // when the last of its items was disabled; zero if none is
	Destroyed time.Time // when the last of its items was destroyed; zero if none is

	// Items has the types of all its items. Behind has those that are not in its state, since
	// disabling, enabling or destroying was interrupted, or the table was changed otherwise. List
	// leaves them out.
	Items, Behind []string
}

// Version is one version of a branch key.
type Version struct {
	ID      string // a UUID
	KeyARN  string // of the KMS key that wraps it
	Created time.Time
}

// Describe describes a branch key. It asks the table only. If items are damaged, the error has the
// reason for each, and the description has the others. It is nil without a whole active item.
func (s *Store) Describe(ctx context.Context, id string) (*Description, error) {
	records, faults, err := s.all(ctx, id)
	if err != nil {
		return nil, s.fail("Describe", id, err)
	}
	d := describe(records)
	switch {
	case len(faults) > 0:
		err = damagedItems(faults)
	case d == nil:
		err = noActiveItem()
	}
	return d, s.fail("Describe", id, err)
}

// damagedItems returns the error for items of a branch key that are damaged, with the way out.
func damagedItems(faults []error) error {
	return fmt.Errorf("%w; restore from a backup what is damaged; or delete these items from the table, and the rest can be disabled and destroyed", errors.Join(faults...))
}

func noActiveItem() error {
	return fmt.Errorf("%w: it has no item %q; restore it from a backup; or delete its other items from the table, which destroys it without a tombstone", errIncomplete, kindActive)
}

// describe describes the branch key that has these items. It returns nil if they have no active
// one.
func describe(records []*record) *Description {
	active := activeOf(records)
	if active == nil {
		return nil
	}
	d := active.describeKey()
	current := stateOf(records)
	for _, r := range records {
		d.Items = append(d.Items, r.kind)
		if r.state != current {
			d.Behind = append(d.Behind, r.kind)
		}
		if r.disabled.After(d.Disabled) {
			d.Disabled = r.disabled
		}
		if r.destroyed.After(d.Destroyed) {
			d.Destroyed = r.destroyed
		}
		if r.kind != kindActive && r.kind != kindBeacon {
			d.Versions = append(d.Versions, r.describe())
		}
	}
	d.Err = current.err(d.ID, d.Disabled, d.Destroyed)
	return d
}

// describeKey describes a branch key by its active item alone.
func (r *record) describeKey() *Description {
	return &Description{ID: r.id, Context: r.ownContext(), Active: r.describe(), Err: r.check(), Disabled: r.disabled, Destroyed: r.destroyed}
}

func (r *record) describe() Version { return Version{r.version.String(), r.keyARN, r.created} }

// List describes all branch keys, in no order. It reads the whole table. After an error that holds
// ErrDamaged, which is about one branch key, it goes on with the others.
func (s *Store) List(ctx context.Context) iter.Seq2[*Description, error] {
	return func(yield func(*Description, error) bool) {
		for item, err := range s.table.Active(ctx) {
			var r *record
			if err == nil {
				r, err = parse(item)
			}
			var d *Description
			if err == nil {
				d = r.describeKey()
			}
			if !yield(d, s.fail("List", item.Attributes[attributeID], err)) {
				return
			}
		}
	}
}

// fail returns the error of an operation, or nil.
func (s *Store) fail(operation, id string, err error) error {
	if err == nil {
		return nil
	}
	return &provider.EncryptionError{Operation: operation, Provider: string(typeBranchKey), KeyID: id, Err: err}
}
