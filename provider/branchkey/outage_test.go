package branchkey_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"piko.sh/pikokms/internal/kmswrap"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/service"
)

// The circuit breaker of package service opens after this many outages in a row, and for this time.
// A call that takes as long as fairWait is an outage, whoever ends it.
const (
	outagesToOpen = 5
	openFor       = 30 * time.Second
	fairWait      = 3 * time.Second
)

// TestKMSFaults checks that messages under cached branch keys are written and read whatever KMS
// does, and that others fail at once when the breaker is open.
func TestKMSFaults(t *testing.T) {
	for name, fault := range map[string]struct {
		do   kmstest.Action
		want error
	}{
		"error":     {kmstest.Error("KMSInternalException", ""), provider.ErrProviderUnavailable},
		"throttled": {kmstest.Throttle(), provider.ErrProviderUnavailable},
		"dropped":   {kmstest.Drop(), provider.ErrProviderUnavailable},
		"stalled":   {kmstest.Stall(), provider.ErrProviderUnavailable},
		"half-open": {kmstest.HalfOpen(), provider.ErrProviderUnavailable},
		"no KMS":    {kmstest.Body(http.StatusOK, "text/html", "<html>"), provider.ErrProviderUnavailable},
		"denied":    {kmstest.Deny(), provider.ErrAccessDenied},
		"lies": {kmstest.Answer(func(members map[string]any) {
			members["KeyId"] = "arn:aws:kms:eu-west-1:111122223333:key/another"
		}), provider.ErrDecryptionFailed},
		"short key": {kmstest.Answer(func(members map[string]any) { members["Plaintext"] = make([]byte, 31) }), branchkey.ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestStore(t)
			cached, uncached := create(t, s.Store), create(t, s.Store)
			timeout := 10 * time.Second // for an answer that comes, on a machine that is busy
			if name == "stalled" || name == "half-open" {
				timeout = time.Second
			}
			wrapper, err := kmswrap.New(t.Context(), awskms.Config{
				KeyID: s.key.ARN, Timeout: timeout, Client: kms.New(kms.Options{
					Region: kmstest.Region, BaseEndpoint: &s.kms.URL, RetryMaxAttempts: 1, Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
				}),
			})
			require.NoError(t, err)
			store := branchkey.StoreOf(s.table, wrapper, "")
			sv := service.New(newProvider(t, store, branchkey.Config{Supplier: branchkey.ByPair("tenant")}), service.Config{})
			defer sv.Close()
			pairs, others := map[string]string{"tenant": cached}, map[string]string{"tenant": uncached}
			stored := seal(t, sv, "before", pairs)

			s.kms.Inject(kmstest.Fault{Operation: "Decrypt", Do: fault.do})
			s.kms.Reset()
			for range 2 * outagesToOpen {
				_, err := sv.GenerateDataKey(t.Context(), others)
				require.ErrorIs(t, err, fault.want)
				got, err := open(t.Context(), sv, stored)
				require.NoError(t, err)
				require.Equal(t, "before", got)
				seal(t, sv, "during", pairs)
			}
			if fault.want == provider.ErrProviderUnavailable {
				require.Equal(t, service.StateOpen, sv.State())
				require.Equal(t, outagesToOpen, s.kms.Calls("Decrypt"))
			} else {
				require.Equal(t, service.StateClosed, sv.State(), "KMS answers")
			}
		})
	}
}

// TestDynamoDBFaults checks the errors of answers that DynamoDB gives, and of others.
func TestDynamoDBFaults(t *testing.T) {
	const prefix = `{"__type":"com.amazonaws.dynamodb.v20120810#`
	for name, answer := range map[string]struct {
		status int
		body   string
		want   error
	}{
		"throttled":   {400, prefix + `ProvisionedThroughputExceededException"}`, provider.ErrProviderUnavailable},
		"limit":       {400, prefix + `RequestLimitExceeded"}`, provider.ErrProviderUnavailable},
		"internal":    {500, prefix + `InternalServerError"}`, provider.ErrProviderUnavailable},
		"unavailable": {503, `<html>`, provider.ErrProviderUnavailable},
		"denied":      {400, prefix + `AccessDeniedException"}`, provider.ErrAccessDenied},
		"no table":    {400, prefix + `ResourceNotFoundException"}`, branchkey.ErrNoTable},
		"expired":     {400, `{"__type":"com.amazon.coral.service#ExpiredTokenException"}`, provider.ErrAccessDenied},
		"invalid":     {400, prefix + `ValidationException"}`, provider.ErrInvalidKey},
		"no item":     {200, `{}`, provider.ErrKeyNotFound},
		"conflict":    {400, prefix + `TransactionConflictException"}`, branchkey.ErrConflict},
		"a number":    {200, `{"Item":{"branch-key-id":{"S":"x"},"type":{"S":"branch:ACTIVE"},"enc":{"N":"1"}}}`, branchkey.ErrDamaged},
		"a list":      {200, `{"Item":{"branch-key-id":{"S":"x"},"type":{"S":"branch:ACTIVE"},"more":{"L":[]}}}`, branchkey.ErrDamaged},
		"keys":        {200, `{"Item":{"branch-key-id":{"N":"1"}}}`, branchkey.ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/x-amz-json-1.0")
				w.WriteHeader(answer.status)
				_, _ = w.Write([]byte(answer.body))
			}))
			defer server.Close()
			table := dynamoDBAt(t, server.URL)
			_, err := table.Get(t.Context(), "x", "branch:ACTIVE")
			require.ErrorIs(t, err, answer.want)
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			_, err = table.Get(ended, "x", "branch:ACTIVE")
			require.ErrorIs(t, err, context.Canceled)
			require.NotErrorIs(t, err, provider.ErrProviderUnavailable)
		})
	}
	_, err := dynamoDBAt(t, "http://127.0.0.1:1").Get(t.Context(), "x", "branch:ACTIVE")
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)

	stalled := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that the end of the connection is noticed
		<-r.Context().Done()
	}))
	defer stalled.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	table, err := branchkey.NewDynamoDB(t.Context(), branchkey.Config{
		Table: "keys", TableEndpoint: stalled.URL, KMS: awskms.Config{Region: "eu-west-1", MaxRetries: 1, Timeout: time.Second / 10},
	})
	require.NoError(t, err)
	_, err = table.Get(t.Context(), "x", "branch:ACTIVE")
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
}

// A table is in the Region of its KMS, whichever field says that.
func TestRegionOfTable(t *testing.T) {
	t.Setenv("AWS_REGION", "us-east-1")
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	regions := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scope := strings.Split(r.Header.Get("Authorization"), "/") // AWS4-HMAC-SHA256 Credential=ID/DATE/REGION/…
		regions <- scope[2]
		w.WriteHeader(http.StatusBadRequest)
	}))
	defer server.Close()
	for want, c := range map[string]awskms.Config{
		"us-east-1": {Accounts: []string{"111122223333"}},
		"eu-west-1": {KeyID: "arn:aws:kms:eu-west-1:111122223333:key/1234"},
		"eu-west-2": {Accounts: []string{"111122223333"}, Region: "eu-west-2"},
		"eu-west-3": {Accounts: []string{"111122223333"}, Client: kms.New(kms.Options{Region: "eu-west-3"})},
	} {
		table, err := branchkey.NewDynamoDB(t.Context(), branchkey.Config{Table: "keys", TableEndpoint: server.URL, KMS: c})
		require.NoError(t, err)
		_, err = table.Get(t.Context(), "x", "branch:ACTIVE")
		require.Error(t, err)
		require.Equal(t, want, <-regions)
	}
}

// dynamoDBAt returns a table at an endpoint that is asked once.
func dynamoDBAt(t *testing.T, endpoint string) branchkey.Table {
	t.Helper()
	client := dynamodb.New(dynamodb.Options{
		Region: "eu-west-1", BaseEndpoint: aws.String(endpoint), RetryMaxAttempts: 1, Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})
	table, err := branchkey.NewDynamoDB(t.Context(), branchkey.Config{Table: "keys", TableClient: client})
	require.NoError(t, err)
	return table
}

// always answers each request alike after a moment, without a network.
type always string

func (answer always) Do(*http.Request) (*http.Response, error) {
	time.Sleep(time.Millisecond)
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(string(answer)))}, nil
}

func TestTableThatIsNeverReady(t *testing.T) {
	bubble(t, func(t *testing.T) {
		client := dynamodb.New(dynamodb.Options{
			Region: "eu-west-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
			HTTPClient: creating{always(`{"Table":{"TableStatus":"CREATING"}}`), new(bool)},
		})
		table, err := branchkey.NewDynamoDB(t.Context(), branchkey.Config{Table: "keys", TableClient: client})
		require.NoError(t, err)
		err = table.Create(t.Context())
		require.ErrorIs(t, err, provider.ErrProviderUnavailable)
		require.NotErrorIs(t, err, provider.ErrAccessDenied)
		ended, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		client = dynamodb.New(client.Options(), func(o *dynamodb.Options) { o.HTTPClient = creating{always(`{"Table":{}}`), new(bool)} })
		table, err = branchkey.NewDynamoDB(t.Context(), branchkey.Config{Table: "keys", TableClient: client})
		require.NoError(t, err)
		require.ErrorIs(t, table.Create(ended), context.DeadlineExceeded)
	})
}

// creating has no table at first, and then one that is being made.
type creating struct {
	always
	asked *bool
}

func (c creating) Do(r *http.Request) (*http.Response, error) {
	if *c.asked {
		return c.always.Do(r)
	}
	*c.asked = true
	answer, err := always(`{"__type":"com.amazonaws.dynamodb.v20120810#ResourceNotFoundException"}`).Do(r)
	answer.StatusCode = http.StatusBadRequest
	return answer, err
}

// TestListGoesOn checks that a damaged item hides no other branch key.
func TestListGoesOn(t *testing.T) {
	const good = `"create-time":{"S":"2026-01-01T00:00:00.000000Z"},"kms-arn":{"S":"arn:aws:kms:eu-west-1:111122223333:key/1"},
		"version":{"S":"branch:version:00000000-0000-4000-8000-000000000001"},"enc":{"B":"eA=="},"type":{"S":"branch:ACTIVE"}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"Items":[
			{"branch-key-id":{"S":"wrong type"},"hierarchy-version":{"S":"1"},`+good+`},
			{"branch-key-id":{"S":"newer"},"hierarchy-version":{"N":"2"},`+good+`},
			{"branch-key-id":{"S":"good"},"hierarchy-version":{"N":"1"},`+good+`}]}`)
	}))
	defer server.Close()
	keys, err := branchkey.NewLocalKMS(local.Config{Key: make([]byte, 32)})
	require.NoError(t, err)
	defer keys.Close()
	store := branchkey.StoreOf(dynamoDBAt(t, server.URL), keys, "")
	listed, damaged := list(t, store)
	require.Equal(t, []string{"good"}, listed)
	require.Len(t, damaged, 2)
	require.ErrorIs(t, damaged["wrong type"], branchkey.ErrDamaged)
	require.ErrorIs(t, damaged["newer"], branchkey.ErrHierarchyVersion)

	inFile := newTestStore(t)
	id := create(t, inFile.Store)
	db, err := bbolt.Open(inFile.path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("items")).Put([]byte("damaged\x00branch:ACTIVE"), []byte(`{"enc":1}`))
	}))
	require.NoError(t, db.Close())
	listed, damaged = list(t, inFile.Store)
	require.Equal(t, []string{id}, listed)
	require.Len(t, damaged, 1)
	require.ErrorIs(t, damaged["damaged"], branchkey.ErrDamaged)
}

// list returns the IDs that a store lists, and the errors by ID.
func list(t *testing.T, store *branchkey.Store) (ids []string, damaged map[string]error) {
	t.Helper()
	damaged = make(map[string]error)
	for d, err := range store.List(t.Context()) {
		if err == nil {
			ids = append(ids, d.ID)
			continue
		}
		failed, ok := errors.AsType[*provider.EncryptionError](err)
		require.True(t, ok)
		damaged[failed.KeyID] = err
	}
	return ids, damaged
}

// TestDeadlinesOfCallersOpenTheBreaker has a KMS that never answers, and callers who wait for it
// for a fair time. It is one request that they wait for.
func TestDeadlinesOfCallersOpenTheBreaker(t *testing.T) {
	for patience, want := range map[time.Duration]service.State{
		fairWait: service.StateOpen, fairWait - time.Millisecond: service.StateClosed,
	} {
		bubble(t, func(t *testing.T) {
			store, _ := newCountedStore(t)
			id := create(t, store.Store)
			keys, err := branchkey.NewLocalKMS(local.Config{Key: make([]byte, 32)})
			require.NoError(t, err)
			defer keys.Close()
			silent := branchkey.StoreOf(store.table, silentKMS{keys}, "")
			sv := service.New(newProvider(t, silent, branchkey.Config{BranchKeyID: id, CheckLater: true}), service.Config{})
			defer sv.Close()
			for range outagesToOpen {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				_, err := sv.GenerateDataKey(ctx, nil)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				cancel()
				synctest.Wait()
			}
			require.Equal(t, want, sv.State())
		})
	}
}

// silentKMS never answers.
type silentKMS struct{ branchkey.KMS }

func (silentKMS) Decrypt(ctx context.Context, _ string, _ []byte, _ map[string]string) (*provider.SecureBytes, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
