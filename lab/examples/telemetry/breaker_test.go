package main

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/service"
)

// failing is a provider whose key service is down as long as out is set.
type failing struct {
	provider.EncryptionProvider
	out   *bool
	calls *int
}

func (f failing) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	*f.calls++
	if *f.out {
		return nil, provider.ErrProviderUnavailable
	}
	return f.EncryptionProvider.UnwrapDataKey(ctx, request)
}

// TestReportsWithoutABreaker reads messages while the key service is out for longer than a breaker
// lets pass. Each reading asks it anew, and once it is back, the cache serves.
func TestReportsWithoutABreaker(t *testing.T) {
	key, err := local.NewProvider(local.Config{Key: make([]byte, 32)})
	require.NoError(t, err)
	defer key.Close()
	spans := tracetest.NewSpanRecorder()
	reader := sdkmetric.NewManualReader()
	out, calls := true, 0
	k := service.New(failing{key, &out, &calls}, service.Config{
		NoBreaker: true,
		Cache:     &service.CacheLimits{},
		Telemetry: service.Telemetry{
			TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)),
			MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
		},
	})
	defer k.Close()
	stored, err := (&message.Encrypter{Keyring: k}).Encrypt(t.Context(), make([]byte, 1000), nil)
	require.NoError(t, err)
	read := func() error {
		_, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{k}}).Decrypt(t.Context(), stored, nil)
		return err
	}
	for range 2 * outagesToOpen {
		require.ErrorIs(t, read(), provider.ErrProviderUnavailable)
	}
	require.Equal(t, 2*outagesToOpen, calls)
	out = false
	for range 3 {
		require.NoError(t, read())
	}
	require.Equal(t, 2*outagesToOpen+1, calls)
	require.Len(t, spans.Ended(), 1+calls)
	require.Equal(t, map[string]int64{
		"pikokms.encrypted ":                  1000,
		"pikokms.decrypted ":                  3000,
		"pikokms.data_key_cache miss":         int64(2 + 2*outagesToOpen),
		"pikokms.data_key_cache hit":          2,
		"pikokms.key_service.duration ok":     2,
		"pikokms.key_service.duration outage": int64(2 * outagesToOpen),
	}, collect(t, reader))

	_, err = service.New(struct{ provider.EncryptionProvider }{key}, service.Config{NoBreaker: true}).UnwrapPikoV2(t.Context(), "")
	require.ErrorIs(t, err, provider.ErrInvalidProvider)
}
