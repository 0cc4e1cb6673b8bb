package branchkey_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/local"
)

// stored returns the texts of a table's file by their keys. If change is not nil, it can change
// them before.
func (s *testStore) stored(t *testing.T, change func(id, kind, text string) string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	db, err := bbolt.Open(s.path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		items := tx.Bucket([]byte("items"))
		require.NoError(t, items.ForEach(func(key, text []byte) error { all[string(key)] = string(text); return nil }))
		for key, text := range all {
			if change == nil {
				continue
			}
			id, kind, _ := strings.Cut(key, "\x00")
			all[key] = change(id, kind, text)
			require.NoError(t, items.Put([]byte(key), []byte(all[key])))
		}
		return nil
	}))
	require.NoError(t, db.Close())
	return all
}

// TestEveryDamagedItemIsNamed checks that a damaged item hides no other fault of its branch key,
// and that nothing of such a branch key is moved.
func TestEveryDamagedItemIsNamed(t *testing.T) {
	s := newTestStore(t)
	ctx := t.Context()
	id := create(t, s.Store)
	for range 3 {
		_, err := s.CreateVersion(ctx, id)
		require.NoError(t, err)
	}
	whole, err := s.Describe(ctx, id)
	require.NoError(t, err)
	require.Len(t, whole.Versions, 4)
	kindOf := func(i int) string { return "branch:version:" + whole.Versions[i].ID }
	damaged := s.stored(t, func(_, kind, text string) string {
		switch kind {
		case kindOf(0):
			return `{"branch-key-id":{},"enc":"AA=="}`
		case kindOf(1):
			return text[:len(text)/2]
		case "beacon:ACTIVE":
			return strings.Replace(text, `"hierarchy-version":"1"`, `"hierarchy-version":"2"`, 1)
		case kindOf(2):
			return strings.Replace(text, `"create-time":"20`, `"create-time":"19`, 1)
		}
		return text
	})
	unread := []string{kindOf(0), kindOf(1), "beacon:ACTIVE"}
	requireNamed := func(err error, kinds ...string) {
		t.Helper()
		require.ErrorIs(t, err, branchkey.ErrDamaged)
		require.ErrorIs(t, err, branchkey.ErrHierarchyVersion)
		for _, kind := range kinds {
			require.ErrorContains(t, err, kind)
		}
		require.Equal(t, len(kinds), strings.Count(err.Error(), "\n")+1, err)
	}
	requireNamed(s.Check(ctx, id), append(unread, kindOf(2))...)
	require.ErrorIs(t, s.Check(ctx, id), branchkey.ErrRefused, "of the creation time, only KMS knows")

	d, err := s.Describe(ctx, id)
	requireNamed(err, unread...)
	require.Equal(t, whole.Active, d.Active)
	require.Len(t, d.Versions, 2)

	to := s.open(t, awskms.Config{KeyID: s.kms.CreateKey(kmstest.Key{}).ARN, TrustedKeys: []string{s.key.ARN}})
	requireNamed(to.Move(ctx, id, nil), append(unread, kindOf(2))...)
	require.Equal(t, damaged, s.stored(t, nil), "nothing was moved")

	s.stored(t, func(_, kind, text string) string {
		if kind == "branch:ACTIVE" {
			return "{}"
		}
		return text
	})
	d, err = s.Describe(ctx, id)
	require.ErrorIs(t, err, branchkey.ErrDamaged)
	require.NotErrorIs(t, err, branchkey.ErrIncomplete)
	require.Nil(t, d)
}

// TestWrongTypes has DynamoDB answer with attributes of wrong types.
func TestWrongTypes(t *testing.T) {
	const form = `"branch-key-id":{"S":"a"},"kms-arn":{"S":"arn:aws:kms:eu-west-1:111122223333:key/1"},"create-time":{"S":"2026-01-01T00:00:00.000000Z"}`
	const one, two = "branch:version:00000000-0000-4000-8000-000000000001", "branch:version:00000000-0000-4000-8000-000000000002"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".Query") {
			w.WriteHeader(http.StatusBadRequest) // nothing is to be written
			return
		}
		_, _ = io.WriteString(w, `{"Items":[
			{"type":{"S":"`+one+`"},"hierarchy-version":{"N":"1"},"enc":{"S":"eA=="},`+form+`},
			{"type":{"S":"`+two+`"},"hierarchy-version":{"N":"1"},"enc":{"B":"eA=="},`+form+`},
			{"type":{"S":"beacon:ACTIVE"},"hierarchy-version":{"S":"1"},"enc":{"B":"eA=="},`+form+`},
			{"type":{"S":"branch:ACTIVE"},"hierarchy-version":{"N":"1"},"enc":{"B":"eA=="},"version":{"S":"`+two+`"},`+form+`}]}`)
	}))
	defer server.Close()
	keys, err := branchkey.NewLocalKMS(local.Config{Key: make([]byte, 32)})
	require.NoError(t, err)
	defer keys.Close()
	store := branchkey.StoreOf(dynamoDBAt(t, server.URL), keys, "")
	d, err := store.Describe(t.Context(), "a")
	for _, err := range []error{err, store.Check(t.Context(), "a")} {
		require.ErrorIs(t, err, branchkey.ErrDamaged)
		require.ErrorContains(t, err, `item "`+one+`": its attribute "enc" is of DynamoDB's type S, and must be of type B`)
		require.ErrorContains(t, err, `item "beacon:ACTIVE": its attribute "hierarchy-version" is of DynamoDB's type S, and must be of type N`)
	}
	require.Equal(t, two[len("branch:version:"):], d.Active.ID)
	require.Len(t, d.Versions, 1)
	require.Error(t, store.Move(t.Context(), "a", nil))
}
