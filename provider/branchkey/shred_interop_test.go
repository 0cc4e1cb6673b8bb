package branchkey_test

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/internal/kmswrap"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
)

func TestPythonSDKShredding(t *testing.T) {
	table, endpoint := newMotoTable(t)
	testShredding(t, startPython(t, endpoint), table, endpoint)
}

func TestJavaSDKShredding(t *testing.T) {
	table, endpoint := newMotoTable(t)
	testShredding(t, startJava(t, endpoint), table, endpoint)
}

// testShredding disables, enables and destroys branch keys, and has AWS's library try everything
// that it can do with them, and with those of other tenants, whose objects are among the others.
func testShredding(t *testing.T, sdk *officialSDK, table branchkey.Table, endpoint string) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	client := kms.New(kms.Options{
		Region: emulator.Region, BaseEndpoint: aws.String(endpoint), Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})
	made, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{})
	require.NoError(t, err)
	sdk.table, sdk.logicalName, sdk.key = table.Name(), "keys of the test", *made.KeyMetadata.Arn
	// Each Store is as in a process of its own, which has seen nothing.
	newStore := func() *branchkey.Store {
		wrapper, err := kmswrap.New(t.Context(), awskms.Config{KeyID: sdk.key, Client: client})
		require.NoError(t, err)
		store := branchkey.StoreOf(struct{ branchkey.Table }{table}, wrapper, sdk.logicalName)
		return store
	}
	ctx := t.Context()
	require.NoError(t, newStore().CreateTable(ctx))
	ours, err := newStore().Create(ctx, "of ours", map[string]string{"tenant": "1"})
	require.NoError(t, err)
	theirs := sdk.ask(t, sdkRequest{Op: "create", ID: "of theirs", Context: map[string]string{"tenant": "2"}}).ID
	third, err := newStore().Create(ctx, "of another", map[string]string{"tenant": "3"})
	require.NoError(t, err)

	// One bucket has the objects of all tenants, under two versions each, which both sides wrote.
	type object struct {
		id   string
		data []byte
	}
	var bucket []object
	for range 2 {
		for _, id := range []string{ours, theirs, third} {
			p := newProvider(t, newStore(), branchkey.Config{BranchKeyID: id})
			bucket = append(bucket, object{id, seal(t, p, "x", nil)})
			bucket = append(bucket, object{id, sdk.ask(t, sdkRequest{Op: "encrypt", ID: id, Suite: 0x0478, FrameLength: 4096, Data: []byte("x")}).Data})
		}
		for _, id := range []string{ours, theirs, third} {
			_, err := newStore().CreateVersion(ctx, id)
			require.NoError(t, err)
		}
	}
	refused, opened := 0, 0
	// tries tries everything on both sides. We refuse branch keys that can't be used for a reason.
	tries := func(usable func(id string) bool, reason error) {
		t.Helper()
		for _, o := range bucket {
			answer := sdk.try(t, sdkRequest{Op: "decrypt", Key: sdk.key, ID: o.id, Suite: 0x0478, Data: o.data})
			_, err := open(ctx, newProvider(t, newStore(), branchkey.Config{BranchKeyID: o.id, CheckLater: true}), o.data)
			if usable(o.id) {
				require.Empty(t, answer.Error)
				require.Equal(t, "x", string(answer.Data))
				require.NoError(t, err)
				opened++
			} else {
				require.Contains(t, answer.Error, "is not a valid branch key", "AWS's library asks no KMS")
				require.ErrorIs(t, err, reason)
				refused++
			}
		}
		for _, id := range []string{ours, theirs, third} {
			for _, request := range []sdkRequest{{Op: "encrypt", Suite: 0x0478, FrameLength: 4096, Data: []byte("x")}, {Op: "beacon"}, {Op: "version"}} {
				request.ID, request.Key = id, sdk.key
				answer := sdk.try(t, request)
				require.Equal(t, usable(id), answer.Error == "", "%s of %s: %s", request.Op, id, answer.Error)
				if answer.Error != "" {
					require.Contains(t, answer.Error, "is not a valid")
					refused++
				}
			}
			created := sdk.try(t, sdkRequest{Op: "create", Key: sdk.key, ID: id, Context: map[string]string{"tenant": "x"}})
			require.Contains(t, created.Error, "ConditionalCheckFailed", "the ID stays taken")
		}
	}
	all := func(string) bool { return true }
	tries(all, nil)
	for _, id := range []string{ours, theirs} {
		_, err := newStore().Disable(ctx, id)
		require.NoError(t, err)
	}
	tries(func(id string) bool { return id == third }, branchkey.ErrDisabled)
	for _, id := range []string{ours, theirs} {
		_, err := newStore().Enable(ctx, id)
		require.NoError(t, err)
		require.NoError(t, newStore().Check(ctx, id))
	}
	tries(all, nil)
	for _, id := range []string{ours, theirs} {
		_, err := newStore().Disable(ctx, id)
		require.NoError(t, err)
		age(t, table, id, 8*24*time.Hour)
		d, err := newStore().Destroy(ctx, id, 0)
		require.NoError(t, err)
		require.Empty(t, d.Behind)
	}
	tries(func(id string) bool { return id == third }, branchkey.ErrDestroyed)
	for _, id := range []string{ours, theirs, third} {
		require.NoError(t, newStore().Check(ctx, id))
	}
	t.Logf("the SDK opened %d objects, and was refused %d times", opened, refused)
}
