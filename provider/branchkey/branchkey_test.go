package branchkey_test

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/internal/exported"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/provider/providertest"
	"piko.sh/pikokms/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestExported(t *testing.T) { exported.Test(t) }

// testStore is a key store in a file, whose keys a kmstest server wraps.
type testStore struct {
	*branchkey.Store
	kms   *kmstest.Server
	key   kmstest.Key
	table branchkey.Table
	path  string // of the table
}

func newTestStore(t testing.TB) *testStore {
	t.Helper()
	server := kmstest.NewServer(t)
	path := filepath.Join(t.TempDir(), "keys.db")
	s := &testStore{kms: server, key: server.CreateKey(kmstest.Key{}), table: branchkey.NewFile(path), path: path}
	s.Store = s.open(t, awskms.Config{KeyID: s.key.ARN})
	require.NoError(t, s.CreateTable(t.Context()))
	return s
}

// open returns another Store on the same table and KMS.
func (s *testStore) open(t testing.TB, c awskms.Config) *branchkey.Store {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	c.Endpoint = s.kms.URL
	store, err := branchkey.NewStore(t.Context(), branchkey.Config{File: s.path, KMS: c})
	require.NoError(t, err)
	return store
}

func create(t testing.TB, s *branchkey.Store) string {
	t.Helper()
	id, err := s.Create(t.Context(), "", nil)
	require.NoError(t, err)
	return id
}

func newProvider(t testing.TB, s *branchkey.Store, c branchkey.Config) *branchkey.Provider {
	t.Helper()
	if c.TTL == 0 {
		c.TTL = time.Hour
	}
	p, err := branchkey.ProviderOf(t.Context(), s, c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func seal(t testing.TB, p provider.Keyring, plaintext string, pairs map[string]string) []byte {
	t.Helper()
	stored, err := (&message.Encrypter{Keyring: p}).Encrypt(t.Context(), []byte(plaintext), pairs)
	require.NoError(t, err)
	return stored
}

func open(ctx context.Context, p provider.Keyring, stored []byte) (string, error) {
	plaintext, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{p}}).Decrypt(ctx, stored, nil)
	return string(plaintext), err
}

func TestProvider(t *testing.T) {
	s := newTestStore(t)
	id, other := create(t, s.Store), create(t, s.Store)
	providertest.Run(t,
		func(t *testing.T) provider.EncryptionProvider {
			return newProvider(t, s.Store, branchkey.Config{BranchKeyID: id})
		},
		func(t *testing.T) provider.EncryptionProvider {
			return newProvider(t, s.Store, branchkey.Config{BranchKeyID: other})
		})
}

func TestProviderInService(t *testing.T) {
	s := newTestStore(t)
	id, other := create(t, s.Store), create(t, s.Store)
	serve := func(t *testing.T, id string) provider.EncryptionProvider {
		sv := service.New(newProvider(t, s.Store, branchkey.Config{BranchKeyID: id}), service.Config{})
		t.Cleanup(func() { require.NoError(t, sv.Close()) })
		return sv
	}
	providertest.Run(t,
		func(t *testing.T) provider.EncryptionProvider { return serve(t, id) },
		func(t *testing.T) provider.EncryptionProvider { return serve(t, other) })
}

func TestProviderOfURL(t *testing.T) {
	folder := t.TempDir()
	require.NoError(t, local.Generate(filepath.Join(folder, "master")))
	master := url.QueryEscape("local://" + filepath.ToSlash(filepath.Join(folder, "master")))
	text := "branchkey://" + filepath.ToSlash(filepath.Join(folder, "keys.db")) + "?master=" + master
	parse := func(text string) branchkey.Config {
		u, err := url.Parse(text)
		require.NoError(t, err)
		c, err := branchkey.ParseURL(u)
		require.NoError(t, err)
		return c
	}
	store, err := branchkey.NewStore(t.Context(), parse(text))
	require.NoError(t, err)
	require.NoError(t, store.CreateTable(t.Context()))
	id, other := create(t, store), create(t, store)
	require.NoError(t, store.Close())
	openID := func(id string) func(t *testing.T) provider.EncryptionProvider {
		return func(t *testing.T) provider.EncryptionProvider {
			p, err := branchkey.NewProvider(t.Context(), parse(text+"&id="+id))
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, p.Close()) })
			return p
		}
	}
	providertest.Run(t, openID(id), openID(other))
}

// newMotoTable returns a table in moto's DynamoDB, and the URL of moto.
func newMotoTable(t *testing.T) (branchkey.Table, string) {
	t.Helper()
	endpoint := emulator.Moto(t)
	client := dynamodb.New(dynamodb.Options{
		Region: emulator.Region, BaseEndpoint: aws.String(endpoint), Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})
	table, err := branchkey.NewDynamoDB(t.Context(), branchkey.Config{Table: fmt.Sprintf("keys-%d", time.Now().UnixNano()), TableClient: client})
	require.NoError(t, err)
	return table, endpoint
}
