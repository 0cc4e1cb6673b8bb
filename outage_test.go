package pikokms_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/service"
)

// unreliable is a key behind a line that fails 20 % of calls, stalls 5 %, and is dead at times.
type unreliable struct {
	provider.Provider
	begin time.Time
	well  bool
}

func (u *unreliable) call(ctx context.Context) error {
	since := time.Since(u.begin)
	dead := since > time.Minute && since < 90*time.Second || since > 3*time.Minute && since < 4*time.Minute
	select {
	case <-time.After(20 * time.Millisecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	switch chance := rand.IntN(100); {
	case u.well:
	case dead || chance < 20:
		return fmt.Errorf("%w: no route", provider.ErrProviderUnavailable)
	case chance < 25:
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (u *unreliable) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	if err := u.call(ctx); err != nil {
		return nil, err
	}
	return u.Provider.GenerateDataKey(ctx, encryptionContext)
}

func TestUploadsThroughAnUnreliableKMS(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := filepath.Join(t.TempDir(), "objects")
	folder, err := folderstorage.New(dir)
	require.NoError(t, err)
	defer folder.Close()
	synctest.Test(t, func(t *testing.T) {
		kms := &unreliable{Provider: newLocal(t, "kms", 1), begin: time.Now()}
		host, err := pikokms.New(pikokms.WithCryptoProvider("kms", kms), pikokms.WithDefaultCryptoProvider("kms"), pikokms.WithStorage(folder))
		require.NoError(t, err)
		content := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 1000*(i%100)) }
		key := func(i int) string { return fmt.Sprintf("uploads/%d", i) }
		errs := make([]error, 1000)
		var uploads sync.WaitGroup
		for i := range errs {
			uploads.Go(func() {
				time.Sleep(rand.N(5 * time.Minute))
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				errs[i] = host.Put(ctx, key(i), bytes.NewReader(content(i)))
			})
		}
		uploads.Wait()

		kms.well = true
		time.Sleep(31 * time.Second) // the breaker may be open, for 30 s
		stored := keys(t, host, "")
		succeeded, refused := 0, 0
		for i, err := range errs {
			if err != nil {
				require.True(t, errors.Is(err, provider.ErrProviderUnavailable) || errors.Is(err, context.DeadlineExceeded), "%v", err)
				require.NotContains(t, stored, key(i))
				if errors.Is(err, service.ErrBreakerOpen) {
					refused++
				}
				continue
			}
			succeeded++
			got, err := get(t, host, key(i))
			require.NoError(t, err)
			require.Equal(t, string(content(i)), got)
		}
		require.Len(t, stored, succeeded)
		require.Len(t, fixture{dir: dir}.files(t), succeeded+1, "objects and their folder, and no rest of an upload")
		require.NotZero(t, succeeded)
		require.NotZero(t, refused)
		t.Logf("of 1,000 uploads %d are stored and read back, %d failed, %d of them refused by the open breaker", succeeded, 1000-succeeded, refused)
	})
}

// The default provider's key service either accepts calls and never answers, or refuses them.
// Objects under the other provider's key are read as before, and no call goes to the one that is
// down.
func TestOneOfTwoKeyServicesIsDown(t *testing.T) {
	for name, fault := range map[string]kmstest.Action{"stalled": kmstest.Stall(), "refusing": kmstest.Drop()} {
		t.Run(name, func(t *testing.T) {
			a, down := newKMS(t)
			b, up := newKMS(t)
			folder := pikokms.WithStorage(newFixture(t).folder)
			both := []pikokms.Option{pikokms.WithCryptoProvider("a", a), pikokms.WithCryptoProvider("b", b), folder}
			before, err := pikokms.New(append(both, pikokms.WithDefaultCryptoProvider("b"))...)
			require.NoError(t, err)
			require.NoError(t, before.Put(t.Context(), "object", strings.NewReader("content")))
			pairs := map[string]string{"column": "iban"}
			small, err := before.Encrypt(t.Context(), "small", pairs)
			require.NoError(t, err)
			large, err := before.Encrypt(t.Context(), strings.Repeat("large", 1000), pairs)
			require.NoError(t, err)

			down.Inject(kmstest.Fault{Do: fault})
			host, err := pikokms.New(append(both, pikokms.WithDefaultCryptoProvider("a"))...)
			require.NoError(t, err)
			up.Reset()
			got, err := get(t, host, "object")
			require.NoError(t, err)
			require.Equal(t, "content", got)
			object, err := host.Open(t.Context(), "object")
			require.NoError(t, err)
			require.NoError(t, object.Close())
			got, err = host.Decrypt(t.Context(), small, pairs)
			require.NoError(t, err)
			require.Equal(t, "small", got)
			got, err = host.Decrypt(t.Context(), large, pairs)
			require.NoError(t, err)
			require.Len(t, got, 5000)
			require.Zero(t, down.Calls(""))
			require.Equal(t, 4, up.Calls("Decrypt"))
			require.NoError(t, host.SetDefaultCryptoProvider("b"))
			require.NoError(t, host.Put(t.Context(), "new", strings.NewReader("content")))
		})
	}
}
