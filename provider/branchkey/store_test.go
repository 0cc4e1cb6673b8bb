package branchkey_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/kmswrap"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/local"
)

// versionOf returns the version of a branch key in the ciphertext of an encrypted data key.
func versionOf(ciphertext []byte) string { return uuid.UUID(ciphertext[28:44]).String() }

func TestCreate(t *testing.T) {
	s := newTestStore(t)
	ctx := t.Context()
	id := create(t, s.Store)
	require.NoError(t, uuid.Validate(id))
	require.Equal(t, 2, s.kms.Calls("GenerateDataKeyWithoutPlaintext"))
	require.Equal(t, 1, s.kms.Calls("ReEncrypt"))
	require.Equal(t, 3, s.kms.Calls(""), "no plain key leaves KMS")
	for _, r := range s.kms.Requests() {
		require.Equal(t, "keys.db", r.EncryptionContext["tablename"])
		require.Equal(t, s.key.ARN, r.EncryptionContext["kms-arn"])
	}

	_, err := s.Create(ctx, "tenant-42", nil)
	require.ErrorIs(t, err, provider.ErrInvalidKey, "an own ID needs a context")
	own := map[string]string{"tenant": "42", "ключ": "значение"}
	named, err := s.Create(ctx, "tenant-42", own)
	require.NoError(t, err)
	require.Equal(t, "tenant-42", named)
	_, err = s.Create(ctx, "tenant-42", own)
	require.ErrorIs(t, err, branchkey.ErrExists)
	for _, bad := range []map[string]string{{"": "x"}, {"x": ""}, {"x": "\xff"}} {
		_, err = s.Create(ctx, "", bad)
		require.ErrorIs(t, err, provider.ErrInvalidKey)
	}

	d, err := s.Describe(ctx, named)
	require.NoError(t, err)
	require.Equal(t, own, d.Context)
	require.Equal(t, []branchkey.Version{d.Active}, d.Versions)
	require.Equal(t, s.key.ARN, d.Active.KeyARN)
	require.WithinDuration(t, time.Now(), d.Active.Created, time.Minute)

	second, err := s.CreateVersion(ctx, named)
	require.NoError(t, err)
	require.NoError(t, s.Check(ctx, named))
	d, err = s.Describe(ctx, named)
	require.NoError(t, err)
	require.Equal(t, second, d.Active.ID)
	require.Len(t, d.Versions, 2)
	require.Equal(t, d.Active, d.Versions[1])
	require.Equal(t, own, d.Context)

	listed := make(map[string]string)
	for d, err := range s.List(ctx) {
		require.NoError(t, err)
		listed[d.ID] = d.Active.ID
	}
	require.Len(t, listed, 2)
	require.Equal(t, second, listed[named])

	for _, operation := range []func() error{
		func() error { _, err := s.CreateVersion(ctx, "none"); return err },
		func() error { _, err := s.Describe(ctx, "none"); return err },
		func() error { return s.Move(ctx, "none", nil) },
		func() error { return s.Check(ctx, "none") },
		func() error {
			_, err := branchkey.ProviderOf(ctx, s.Store, branchkey.Config{BranchKeyID: "none", TTL: time.Hour})
			return err
		},
	} {
		require.ErrorIs(t, operation(), provider.ErrKeyNotFound)
	}
}

// IDs that look like another one, or whose look hides what they are, are not made.
func TestIDsThatCannotBeToldApart(t *testing.T) {
	s := newTestStore(t)
	own := map[string]string{"tenant": "42"}
	for _, id := range []string{
		" acme", "acme ", "\tacme", "acme\n", "ac  me", "ac\u00a0me", "ac\u2003me", "ac\x00me", "ac\x1b[31mme", "ac\x7fme",
		"ac\u200bme", "ac\u200dme", "ac\u202eme", "\ufeffacme", "ac\u00adme", "cafe\u0301", "\u212aelvin", "\uff41cme", "\ufb01rm", "ac\ue000me", "\xff",
		strings.Repeat("x", 2049),
	} {
		_, err := s.Create(t.Context(), id, own)
		require.ErrorIs(t, err, provider.ErrInvalidKey, "%q", id)
	}
	require.Zero(t, s.kms.Calls(""))
	for _, id := range []string{"acme", "Acme", "ac me", "café", "клиент/42", "顧客-42", "ผู้ใช้", "01J9ZK3V", "a:b@c.example"} {
		_, err := s.Create(t.Context(), id, own)
		require.NoError(t, err, id)
	}
}

func TestVersionsAtOnce(t *testing.T) {
	s := newTestStore(t)
	id := create(t, s.Store)
	const administrators = 8
	var made, conflicts []error
	var mu sync.Mutex
	var all sync.WaitGroup
	for range administrators {
		all.Go(func() {
			_, err := s.CreateVersion(t.Context(), id)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made = append(made, nil)
			} else {
				conflicts = append(conflicts, err)
			}
		})
	}
	all.Wait()
	for _, err := range conflicts {
		require.ErrorIs(t, err, branchkey.ErrConflict)
	}
	d, err := s.Describe(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, d.Versions, 1+len(made), "who got no error has its version, and no other was written")
	require.NoError(t, s.Check(t.Context(), id))
}

// An item that says it is under the new key already is believed once KMS has said so.
func TestMoveBelievesNoItem(t *testing.T) {
	s := newTestStore(t)
	ctx := t.Context()
	id := create(t, s.Store)
	_, err := s.CreateVersion(ctx, id)
	require.NoError(t, err)
	next := s.kms.CreateKey(kmstest.Key{})
	to := s.open(t, awskms.Config{KeyID: next.ARN, TrustedKeys: []string{s.key.ARN}})
	for _, item := range itemsOf(t, s.table, id) {
		lying := branchkey.Item{Attributes: maps.Clone(item.Attributes), Enc: append([]byte(nil), item.Enc...)}
		lying.Attributes["kms-arn"] = next.ARN
		require.NoError(t, s.table.Write(ctx, []branchkey.Write{{Item: lying, Replaces: item.Enc}}))
		before := itemsOf(t, s.table, id)
		require.ErrorIs(t, to.Move(ctx, id, nil), branchkey.ErrRefused)
		require.Equal(t, before, itemsOf(t, s.table, id), "nothing is written")
		require.NoError(t, s.table.Write(ctx, []branchkey.Write{{Item: item, Replaces: item.Enc}}))
	}
	require.NoError(t, to.Move(ctx, id, nil))
	require.NoError(t, to.Move(ctx, id, nil))
	require.NoError(t, to.Check(ctx, id))
}

func TestMove(t *testing.T) {
	s := newTestStore(t)
	ctx := t.Context()
	id, untouched := create(t, s.Store), create(t, s.Store)
	p := newProvider(t, s.Store, branchkey.Config{BranchKeyID: id})
	stored := [][]byte{seal(t, p, "0", nil)}
	const versions = 120 // more than one transaction takes
	for i := 1; i < versions; i++ {
		_, err := s.CreateVersion(ctx, id)
		require.NoError(t, err)
		if i%40 == 0 {
			stored = append(stored, seal(t, newProvider(t, s.Store, branchkey.Config{BranchKeyID: id}), fmt.Sprint(len(stored)), nil))
		}
	}
	next := s.kms.CreateKey(kmstest.Key{})
	both := awskms.Config{KeyID: next.ARN, TrustedKeys: []string{s.key.ARN}}
	to := s.open(t, both)
	require.ErrorIs(t, to.Check(ctx, id), provider.ErrUntrustedKey)
	_, err := to.CreateVersion(ctx, id)
	require.ErrorIs(t, err, provider.ErrInvalidKey, "a branch key stays under its KMS key until it is moved")

	opensAll := func(store *branchkey.Store) {
		t.Helper()
		p := newProvider(t, store, branchkey.Config{BranchKeyID: id})
		for i, m := range stored {
			got, err := open(ctx, p, m)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(i), got)
		}
	}
	// KMS fails after more items than one transaction takes.
	s.kms.Reset()
	s.kms.Inject(kmstest.Fault{Operation: "ReEncrypt", After: 110, Do: kmstest.Deny()})
	require.ErrorIs(t, to.Move(ctx, id, nil), provider.ErrAccessDenied)
	s.kms.Heal()
	opensAll(s.Store)
	require.NoError(t, s.Check(ctx, id), "nothing was moved")

	// The table fails in the second transaction.
	var steps []int
	progress := func(moved, total int) {
		steps = append(steps, moved)
		require.Equal(t, versions+2, total)
	}
	both.Endpoint = s.kms.URL
	wrapper, err := kmswrap.New(ctx, both)
	require.NoError(t, err)
	failing := branchkey.StoreOf(&failingTable{Table: s.table, works: 1}, wrapper, "")
	require.ErrorIs(t, failing.Move(ctx, id, progress), provider.ErrProviderUnavailable)
	opensAll(to)
	require.Error(t, to.Check(ctx, id))

	s.kms.Reset()
	require.NoError(t, to.Move(ctx, id, progress))
	require.Equal(t, []int{0, 100, 100, 122}, steps, "the first hundred are not moved again")
	require.Equal(t, 22, s.kms.Calls("ReEncrypt")-checks(s))
	require.NoError(t, to.Check(ctx, id))
	require.NoError(t, to.Move(ctx, id, nil), "there is nothing left to do")

	s.kms.SetState(s.key.ARN, "Disabled")
	alone := s.open(t, awskms.Config{KeyID: next.ARN})
	opensAll(alone)
	require.NoError(t, alone.Check(ctx, id))
	_, err = alone.CreateVersion(ctx, id)
	require.NoError(t, err)
	_, err = branchkey.ProviderOf(ctx, alone, branchkey.Config{BranchKeyID: untouched, TTL: time.Hour})
	require.ErrorIs(t, err, provider.ErrUntrustedKey)
	require.ErrorIs(t, alone.Move(ctx, untouched, nil), provider.ErrUntrustedKey)
	require.ErrorIs(t, to.Move(ctx, untouched, nil), provider.ErrKeyDisabled)
}

// failingTable is a table in which only so many writes work.
type failingTable struct {
	branchkey.Table
	works int
}

func (f *failingTable) Write(ctx context.Context, writes []branchkey.Write) error {
	if f.works--; f.works < 0 {
		return provider.ErrProviderUnavailable
	}
	return f.Table.Write(ctx, writes)
}

// checks returns the number of calls of ReEncrypt that only checked an item.
func checks(s *testStore) (n int) {
	for _, r := range s.kms.Requests() {
		if r.Operation == "ReEncrypt" && r.KeyARN == r.SourceKeyARN {
			n++
		}
	}
	return n
}

func TestVersionDuringMove(t *testing.T) {
	s := newTestStore(t)
	ctx := t.Context()
	id := create(t, s.Store)
	next := s.kms.CreateKey(kmstest.Key{})
	to := s.open(t, awskms.Config{KeyID: next.ARN, TrustedKeys: []string{s.key.ARN}})
	// The other administrator makes a version after Move has read the items.
	made := make(chan string, 1)
	s.kms.Inject(kmstest.Fault{
		Operation: "ReEncrypt", Times: 1,
		When: func(r kmstest.Request) bool { return r.KeyARN == next.ARN },
		Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			version, err := s.CreateVersion(ctx, id)
			if err != nil {
				t.Error(err)
			}
			made <- version
			next.ServeHTTP(w, r)
		},
	})
	require.NoError(t, to.Move(ctx, id, nil))
	d, err := to.Describe(ctx, id)
	require.NoError(t, err)
	require.Equal(t, <-made, d.Active.ID)
	require.Len(t, d.Versions, 2)
	require.NoError(t, to.Check(ctx, id))
}

func TestDiscoveryAndMultiRegionKeys(t *testing.T) {
	s := newTestStore(t)
	ctx := t.Context()
	id := create(t, s.Store)
	p := newProvider(t, s.Store, branchkey.Config{BranchKeyID: id})
	stored := seal(t, p, "x", nil)
	opens := func(store *branchkey.Store, id string, stored []byte) error {
		p := newProvider(t, store, branchkey.Config{BranchKeyID: id, CheckLater: true})
		_, err := open(ctx, p, stored)
		return err
	}

	discovery := s.open(t, awskms.Config{Accounts: []string{kmstest.Account}, Region: kmstest.Region})
	require.NoError(t, opens(discovery, id, stored))
	require.NoError(t, discovery.Check(ctx, id))
	_, err := discovery.Create(ctx, "", nil)
	require.ErrorIs(t, err, provider.ErrKeyUsage)
	_, err = discovery.CreateVersion(ctx, id)
	require.ErrorIs(t, err, provider.ErrKeyUsage)
	require.ErrorIs(t, discovery.Move(ctx, id, nil), provider.ErrKeyUsage)
	calls := s.kms.Calls("")
	strangers := s.open(t, awskms.Config{Accounts: []string{"999999999999"}, Region: kmstest.Region})
	require.ErrorIs(t, opens(strangers, id, stored), provider.ErrUntrustedKey)
	require.Equal(t, calls, s.kms.Calls(""), "KMS is not asked about keys of others")

	primary := s.kms.CreateKey(kmstest.Key{MultiRegion: true})
	replica := s.kms.Replicate(primary.ARN, "us-east-1")
	in := s.open(t, awskms.Config{KeyID: primary.ARN})
	id = create(t, in)
	stored = seal(t, newProvider(t, in, branchkey.Config{BranchKeyID: id}), "x", nil)
	exactly := s.open(t, awskms.Config{KeyID: replica.ARN})
	require.ErrorIs(t, opens(exactly, id, stored), provider.ErrUntrustedKey)
	any := s.open(t, awskms.Config{KeyID: replica.ARN, MultiRegion: true})
	s.kms.Reset()
	require.NoError(t, opens(any, id, stored))
	require.Equal(t, "us-east-1", s.kms.Requests()[0].Region)
	_, err = any.CreateVersion(ctx, id)
	require.NoError(t, err)
	d, err := any.Describe(ctx, id)
	require.NoError(t, err)
	require.Equal(t, primary.ARN, d.Active.KeyARN, "a new version does not change the ARN, as others may trust only that")
	require.NoError(t, in.Check(ctx, id))
	require.NoError(t, any.Check(ctx, id))
	abroad := s.open(t, awskms.Config{Accounts: []string{kmstest.Account}, Region: "us-east-1"})
	require.NoError(t, opens(abroad, id, stored))
}

func TestSupplier(t *testing.T) {
	s := newTestStore(t)
	ctx := t.Context()
	a, b, rest := create(t, s.Store), create(t, s.Store), create(t, s.Store)
	p := newProvider(t, s.Store, branchkey.Config{BranchKeyID: rest, Supplier: branchkey.ByPair("tenant")})
	for _, id := range []string{a, b} {
		stored := seal(t, p, "x", map[string]string{"tenant": id})
		_, err := open(ctx, p, stored)
		require.NoError(t, err)
		_, err = open(ctx, newProvider(t, s.Store, branchkey.Config{BranchKeyID: rest}), stored)
		require.ErrorIs(t, err, provider.ErrUntrustedKey)
	}
	stored := seal(t, p, "x", nil)
	_, err := open(ctx, p, stored)
	require.NoError(t, err)

	only := newProvider(t, s.Store, branchkey.Config{Supplier: branchkey.ByPair("tenant")})
	_, err = only.GenerateDataKey(ctx, nil)
	require.ErrorIs(t, err, provider.ErrKeyNotFound)
	require.NoError(t, only.HealthCheck(ctx))
	// A message under tenant a's branch key that says that it is b's.
	made, err := only.GenerateDataKey(ctx, map[string]string{"tenant": a})
	require.NoError(t, err)
	defer made.Close()
	calls := s.kms.Calls("")
	_, err = only.UnwrapDataKey(ctx, &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Context: map[string]string{"tenant": b}, Size: 32})
	require.ErrorIs(t, err, provider.ErrUntrustedKey)
	require.Equal(t, calls, s.kms.Calls(""))
}

func TestSeveralRecipients(t *testing.T) {
	s := newTestStore(t)
	a := newProvider(t, s.Store, branchkey.Config{BranchKeyID: create(t, s.Store)})
	b := newProvider(t, s.Store, branchkey.Config{BranchKeyID: create(t, s.Store)})
	stored, err := (&message.Encrypter{Keyring: a, Recipients: []provider.Wrapper{b}}).Encrypt(t.Context(), []byte("x"), nil)
	require.NoError(t, err)
	for _, p := range []provider.Keyring{a, b} {
		_, err := open(t.Context(), p, stored)
		require.NoError(t, err)
	}
}

func TestConfig(t *testing.T) {
	s := newTestStore(t)
	keys := awskms.Config{KeyID: s.key.ARN, Endpoint: s.kms.URL}
	for name, c := range map[string]branchkey.Config{
		"no branch key":    {TTL: time.Hour},
		"no TTL":           {BranchKeyID: "x"},
		"negative TTL":     {BranchKeyID: "x", TTL: -1},
		"negative entries": {BranchKeyID: "x", TTL: time.Hour, Entries: -1},
	} {
		c.File, c.KMS = s.path, keys
		_, err := branchkey.NewProvider(t.Context(), c)
		require.ErrorIs(t, err, provider.ErrInvalidKey, name)
	}
	masters := []local.Config{{Key: make([]byte, 32)}}
	for name, c := range map[string]branchkey.Config{
		"nothing":            {},
		"no table":           {KMS: keys},
		"no keys":            {File: s.path},
		"two tables":         {File: s.path, Table: "keys", KMS: keys},
		"two keys":           {File: s.path, KMS: keys, Masters: masters},
		"endpoint of a file": {File: s.path, TableEndpoint: s.kms.URL, Masters: masters},
		"negative retries":   {Table: "keys", KMS: awskms.Config{MaxRetries: -1}, Masters: masters},
		"two masters alike":  {File: s.path, Masters: append(masters, masters...)},
	} {
		_, err := branchkey.NewStore(t.Context(), c)
		require.ErrorIs(t, err, provider.ErrInvalidKey, name)
	}
	for _, c := range []awskms.Config{
		{}, {KeyID: "alias/x"}, {KeyID: "arn:aws:kms:eu-west-1:111122223333:alias/x"}, {KeyID: s.key.ARN, TrustedKeys: []string{"x"}},
		{KeyID: s.key.ARN, Accounts: []string{kmstest.Account}}, {KeyID: s.key.ARN, Region: "us-east-1"}, {Accounts: []string{"1"}, Region: "us-east-1"},
	} {
		_, err := branchkey.NewStore(t.Context(), branchkey.Config{File: s.path, KMS: c})
		require.ErrorIs(t, err, provider.ErrInvalidKey, "%+v", c)
	}
}
