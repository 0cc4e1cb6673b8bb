package branchkey_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/service"
)

type tenantKey struct{}

var errNobody = errors.New("nobody is logged in")

// byCaller is a Supplier that takes the tenant from the caller, whatever a message says.
func byCaller(ctx context.Context, _ map[string]string) (string, error) {
	id, _ := ctx.Value(tenantKey{}).(string)
	if id == "" {
		return "", errNobody
	}
	return id, nil
}

func as(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, tenantKey{}, id)
}

// A Supplier that takes the tenant from the caller decides at every door, also behind the cache of
// data keys, which has just served the tenant whose data it is.
func TestATenantOfTheCallerBehindADataKeyCache(t *testing.T) {
	for _, cached := range []bool{false, true} {
		t.Run(fmt.Sprint("cache ", cached), func(t *testing.T) { testTenantOfTheCaller(t, cached) })
	}
}

func testTenantOfTheCaller(t *testing.T, cached bool) {
	s := newTestStore(t)
	for _, id := range []string{"alice", "mallory"} {
		_, err := s.Create(t.Context(), id, map[string]string{"tenant": id})
		require.NoError(t, err)
	}
	p := newProvider(t, s.Store, branchkey.Config{Supplier: byCaller})
	folder, err := folderstorage.New(t.TempDir())
	require.NoError(t, err)
	options := []pikokms.Option{pikokms.WithCryptoProvider("b", p), pikokms.WithDefaultCryptoProvider("b"), pikokms.WithStorage(folder)}
	if cached {
		options = append(options, pikokms.WithDataKeyCache(service.CacheLimits{}))
	}
	host, err := pikokms.New(options...)
	require.NoError(t, err)
	defer host.Close()
	alice, mallory, nobody := as(t.Context(), "alice"), as(t.Context(), "mallory"), t.Context()
	crypto := host.CryptoService()

	require.NoError(t, host.Put(alice, "a.txt", strings.NewReader("alice's secret")))
	text, err := host.Encrypt(alice, "alice's token", nil)
	require.NoError(t, err)
	texts, err := crypto.EncryptBatch(alice, []string{"one", "two"}, nil)
	require.NoError(t, err)
	doors := map[string]func(ctx context.Context) error{
		"Get": func(ctx context.Context) error {
			r, err := host.Get(ctx, "a.txt")
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, r)
			return errors.Join(err, r.Close())
		},
		"Open": func(ctx context.Context) error {
			o, err := host.Open(ctx, "a.txt")
			if err != nil {
				return err
			}
			return o.Close()
		},
		"Rewrap":       func(ctx context.Context) error { return host.Rewrap(ctx, "a.txt") },
		"Decrypt":      func(ctx context.Context) error { _, err := host.Decrypt(ctx, text, nil); return err },
		"DecryptBatch": func(ctx context.Context) error { _, err := crypto.DecryptBatch(ctx, texts, nil, 2); return err },
	}
	for name, door := range doors {
		require.NoError(t, door(alice), name)
		require.NoError(t, door(alice), name)
		require.ErrorIs(t, door(mallory), provider.ErrUntrustedKey, name)
		require.ErrorIs(t, door(nobody), errNobody, name)
		require.NoError(t, door(alice), name)
	}

	branchKeyOf := func(sealed []byte) string {
		h, _, err := header.Parse(sealed, header.Limits{})
		require.NoError(t, err)
		return string(h.EncryptedDataKeys[0].ProviderInfo)
	}
	require.NoError(t, host.Put(mallory, "m.txt", strings.NewReader("mallory's")))
	r, err := folder.Get(nobody, "m.txt")
	require.NoError(t, err)
	stored, err := io.ReadAll(r)
	require.NoError(t, errors.Join(err, r.Close()))
	require.Equal(t, "mallory", branchKeyOf(stored))
	require.ErrorIs(t, host.Put(nobody, "n.txt", strings.NewReader("nobody's")), errNobody)
	_, err = host.Encrypt(nobody, "x", nil)
	require.ErrorIs(t, err, errNobody)
	_, err = crypto.EncryptBatch(nobody, []string{"x"}, nil)
	require.ErrorIs(t, err, errNobody)
	text, err = host.Encrypt(mallory, "x", nil)
	require.NoError(t, err)
	_, err = host.Decrypt(alice, text, nil)
	require.ErrorIs(t, err, provider.ErrUntrustedKey)

	// A Service without a breaker, and one within another, pass the decision on.
	for name, keyring := range map[string]provider.Keyring{
		"no breaker": service.New(p, service.Config{NoBreaker: true, Cache: &service.CacheLimits{}}),
		"nested":     service.New(service.New(p, service.Config{}), service.Config{Cache: &service.CacheLimits{}}),
	} {
		e, d := message.Encrypter{Keyring: keyring}, message.Decrypter{Keyrings: []provider.Unwrapper{keyring}}
		sealed, err := e.Encrypt(alice, []byte("x"), nil)
		require.NoError(t, err, name)
		_, _, err = d.Decrypt(alice, sealed, nil)
		require.NoError(t, err, name)
		_, _, err = d.Decrypt(mallory, sealed, nil)
		require.ErrorIs(t, err, provider.ErrUntrustedKey, name)
		_, err = e.Encrypt(nobody, []byte("x"), nil)
		require.ErrorIs(t, err, errNobody, name)
		sealed, err = e.Encrypt(mallory, []byte("x"), nil)
		require.NoError(t, err, name)
		require.Equal(t, "mallory", branchKeyOf(sealed), name)
		require.NoError(t, keyring.(io.Closer).Close())
	}
}

// A tenant who is denied their key, or whose items are damaged, opens no circuit breaker for
// others.
func TestADeniedTenantStopsNoOther(t *testing.T) {
	s := newTestStore(t)
	good, bad := create(t, s.Store), create(t, s.Store)
	store, table := newAltered(t, s)
	table.alter = func(_ string, item branchkey.Item) branchkey.Item {
		if item.Attributes["branch-key-id"] == bad {
			item.Attributes["kms-arn"] = s.key.ARN + "0"
		}
		return item
	}
	denied := service.New(newProvider(t, store, branchkey.Config{Supplier: byCaller}), service.Config{Cache: &service.CacheLimits{}})
	defer denied.Close()
	for range 3 * outagesToOpen {
		_, err := denied.GenerateDataKey(as(t.Context(), bad), nil)
		require.Error(t, err)
		_, err = denied.GenerateDataKey(t.Context(), nil)
		require.ErrorIs(t, err, errNobody)
	}
	require.Equal(t, service.StateClosed, denied.State())
	k, err := denied.GenerateDataKey(as(t.Context(), good), nil)
	require.NoError(t, err)
	require.NoError(t, k.Close())
}

// One entry of the cache serves to write and to read, whichever comes first.
func TestReadingAndWritingAskOnce(t *testing.T) {
	s := newTestStore(t)
	id := create(t, s.Store)
	older := seal(t, newProvider(t, s.Store, branchkey.Config{BranchKeyID: id}), "older", nil)
	_, err := s.CreateVersion(t.Context(), id)
	require.NoError(t, err)
	newer := seal(t, newProvider(t, s.Store, branchkey.Config{BranchKeyID: id}), "newer", nil)
	read := func(stored []byte) func(p *branchkey.Provider) error {
		return func(p *branchkey.Provider) error { _, err := open(t.Context(), p, stored); return err }
	}
	write := func(p *branchkey.Provider) error {
		made, err := p.GenerateDataKey(t.Context(), nil)
		if err != nil {
			return err
		}
		return made.Close()
	}
	for name, tt := range map[string]struct {
		does []func(*branchkey.Provider) error
		want int
	}{
		"read, write":              {[]func(*branchkey.Provider) error{read(newer), write, read(newer), write}, 1},
		"write, read":              {[]func(*branchkey.Provider) error{write, read(newer)}, 1},
		"read an old one alone":    {[]func(*branchkey.Provider) error{read(older), read(older)}, 1},
		"read both and write":      {[]func(*branchkey.Provider) error{read(older), read(newer), write, read(older)}, 2},
		"write, and then read old": {[]func(*branchkey.Provider) error{write, read(older), read(newer)}, 2},
	} {
		for _, processSawIt := range []bool{true, false} {
			store := s.Store
			if !processSawIt { // a Store of a table that nobody knows starts anew
				var table *alteredTable
				store, table = newAltered(t, s)
				table.alter = func(_ string, item branchkey.Item) branchkey.Item { return item }
			}
			p := newProvider(t, store, branchkey.Config{BranchKeyID: id, CheckLater: true})
			before := s.kms.Calls("")
			for _, do := range tt.does {
				require.NoError(t, do(p), name)
			}
			require.Equal(t, tt.want, s.kms.Calls("")-before, "%s, seen %v", name, processSawIt)
		}
	}
}

// A branch key whose active version was put back is refused by every Provider of the process,
// however the process came to see the newer version.
func TestRolledBackInAnyOrder(t *testing.T) {
	generate := func(p *branchkey.Provider) error {
		k, err := p.GenerateDataKey(t.Context(), map[string]string{})
		if err != nil {
			return err
		}
		return k.Close()
	}
	for name, see := range map[string]func(t *testing.T, s *testStore, id string, newer []byte){
		"written by another Provider, now closed": func(t *testing.T, s *testStore, id string, _ []byte) {
			p, err := branchkey.ProviderOf(t.Context(), s.Store, branchkey.Config{BranchKeyID: id, TTL: time.Hour})
			require.NoError(t, err)
			require.NoError(t, generate(p))
			require.NoError(t, p.Close())
		},
		"read only": func(t *testing.T, s *testStore, id string, newer []byte) {
			_, err := open(t.Context(), newProvider(t, s.Store, branchkey.Config{BranchKeyID: id, CheckLater: true}), newer)
			require.NoError(t, err)
		},
		"evicted": func(t *testing.T, s *testStore, id string, _ []byte) {
			p := newProvider(t, s.Store, branchkey.Config{Supplier: byCaller, Entries: 1})
			other := create(t, s.Store)
			for _, id := range []string{id, other} {
				k, err := p.GenerateDataKey(as(t.Context(), id), nil)
				require.NoError(t, err)
				require.NoError(t, k.Close())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestStore(t)
			ctx := t.Context()
			id := create(t, s.Store)
			old, err := s.table.Get(ctx, id, "branch:ACTIVE")
			require.NoError(t, err)
			_, err = s.CreateVersion(ctx, id)
			require.NoError(t, err)
			now, err := s.table.Get(ctx, id, "branch:ACTIVE")
			require.NoError(t, err)
			// Whoever wrote this is another process: its Store shares nothing with the others.
			elsewhere, table := newAltered(t, s)
			table.alter = func(_ string, item branchkey.Item) branchkey.Item { return item }
			newer := seal(t, newProvider(t, elsewhere, branchkey.Config{BranchKeyID: id}), "x", nil)

			see(t, s, id, newer)
			require.NoError(t, s.table.Write(ctx, []branchkey.Write{{Item: old, Replaces: now.Enc}}))
			again := s.open(t, awskms.Config{KeyID: s.key.ARN})
			p := newProvider(t, again, branchkey.Config{BranchKeyID: id, CheckLater: true})
			require.ErrorIs(t, generate(p), branchkey.ErrRolledBack)
			require.ErrorIs(t, p.HealthCheck(ctx), branchkey.ErrRolledBack)
			got, err := open(ctx, p, newer)
			require.NoError(t, err, "what was written under the newer version is still read")
			require.Equal(t, "x", got)
			require.NoError(t, s.table.Write(ctx, []branchkey.Write{{Item: now, Replaces: old.Enc}}))
			require.NoError(t, generate(p))
		})
	}
}

// IsCurrent asks the Supplier for each caller, as every other door does.
func TestIsCurrentForATenantOfTheCaller(t *testing.T) {
	s := newTestStore(t)
	for _, id := range []string{"alice", "mallory"} {
		_, err := s.Create(t.Context(), id, map[string]string{"tenant": id})
		require.NoError(t, err)
	}
	folder, err := folderstorage.New(t.TempDir())
	require.NoError(t, err)
	newHost := func() *pikokms.Host {
		p := newProvider(t, s.Store, branchkey.Config{Supplier: byCaller})
		host, err := pikokms.New(pikokms.WithCryptoProvider("b", p), pikokms.WithDefaultCryptoProvider("b"), pikokms.WithStorage(folder),
			pikokms.WithDataKeyCache(service.CacheLimits{}))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, host.Close()) })
		return host
	}
	alice, mallory := as(t.Context(), "alice"), as(t.Context(), "mallory")
	host := newHost()
	require.NoError(t, host.Put(alice, "a.txt", strings.NewReader("alice's secret")))
	for _, c := range []struct {
		caller context.Context
		want   bool
	}{{alice, true}, {mallory, false}, {alice, true}} {
		current, err := host.IsCurrent(c.caller, "a.txt")
		require.NoError(t, err)
		require.Equal(t, c.want, current)
	}
	_, err = host.IsCurrent(t.Context(), "a.txt")
	require.ErrorIs(t, err, errNobody)

	// A new version of another tenant's branch key changes nothing, and one of the tenant's own
	// does.
	for _, c := range []struct {
		id   string
		want bool
	}{{"mallory", true}, {"alice", false}} {
		_, err = s.CreateVersion(t.Context(), c.id)
		require.NoError(t, err)
		current, err := newHost().IsCurrent(alice, "a.txt")
		require.NoError(t, err)
		require.Equal(t, c.want, current, c.id)
	}
}

// HealthCheck of a provider whose Supplier picks all branch keys works under a policy for one
// tenant that also has the ID that HealthCheck asks for, and says what is missing under another.
func TestHealthCheckUnderThePolicyOfOneTenant(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	for _, c := range []struct {
		leadingKeys []string // of the policy's condition dynamodb:LeadingKeys
		want        error
	}{
		{[]string{"tenant-42"}, provider.ErrAccessDenied},
		{[]string{"tenant-42", "health check"}, nil},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var request struct{ Key map[string]struct{ S string } }
			if json.NewDecoder(r.Body).Decode(&request) != nil || !slices.Contains(c.leadingKeys, request.Key["branch-key-id"].S) {
				w.WriteHeader(http.StatusBadRequest)
				_, _ = io.WriteString(w, `{"__type":"com.amazon.coral.service#AccessDeniedException","Message":"not authorized to perform: dynamodb:GetItem"}`)
				return
			}
			_, _ = io.WriteString(w, `{}`) // there is no such item
		}))
		defer server.Close()
		table, err := branchkey.NewDynamoDB(t.Context(), branchkey.Config{Table: "keys", TableEndpoint: server.URL, KMS: awskms.Config{Region: "eu-west-1"}})
		require.NoError(t, err)
		keys, err := branchkey.NewLocalKMS(local.Config{Key: bytes.Repeat([]byte{1}, 32)})
		require.NoError(t, err)
		defer keys.Close()
		store := branchkey.StoreOf(table, keys, "")
		p := newProvider(t, store, branchkey.Config{Supplier: branchkey.ByPair("tenant")})
		err = p.HealthCheck(t.Context())
		if c.want == nil {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, c.want)
		}
	}
}
