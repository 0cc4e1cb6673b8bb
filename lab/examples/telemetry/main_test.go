package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/stdout/stdoutmetric"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/service"
)

// outagesToOpen is the number of outages in a row that open the circuit breaker.
const outagesToOpen = 5

func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"Name":"GenerateDataKey"`, "pikokms.key_service.duration", "pikokms.encrypted", "pikokms.decrypted", "pikokms.data_key_cache", "pikokms.breaker.state"} {
		if !bytes.Contains(out.Bytes(), []byte(want)) {
			t.Errorf("%s is not reported", want)
		}
	}
	if bytes.Contains(out.Bytes(), []byte("content")) {
		t.Error("the plaintext is reported")
	}
}

// down is a provider whose key service is out.
type down struct{ provider.Provider }

func (down) GenerateDataKey(context.Context, map[string]string) (*provider.DataKey, error) {
	return nil, provider.ErrProviderUnavailable
}

func TestReports(t *testing.T) {
	key, err := local.NewProvider(local.Config{Key: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	spans := tracetest.NewSpanRecorder()
	reader := sdkmetric.NewManualReader()
	var events bytes.Buffer
	telemetry := service.Telemetry{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)),
		MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
		Logger:         slog.New(slog.NewTextHandler(&events, nil)),
	}
	well := service.New(key, service.Config{Cache: &service.CacheLimits{}, Telemetry: telemetry})
	out := service.New(down{key}, service.Config{Telemetry: telemetry})
	for range 3 {
		stored, err := (&message.Encrypter{Keyring: well}).Encrypt(t.Context(), make([]byte, 1000), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{well}}).Decrypt(t.Context(), stored, nil); err != nil {
			t.Fatal(err)
		}
	}
	for range outagesToOpen + 2 {
		if _, err := (&message.Encrypter{Keyring: out}).Encrypt(t.Context(), nil, nil); !errors.Is(err, provider.ErrProviderUnavailable) {
			t.Fatal(err)
		}
	}

	if n := len(spans.Ended()); n != 2+outagesToOpen+2 {
		t.Errorf("%d spans", n)
	}
	got := collect(t, reader)
	for name, want := range map[string]int64{
		"pikokms.encrypted ":                   3000,
		"pikokms.decrypted ":                   3000,
		"pikokms.data_key_cache hit":           4,
		"pikokms.data_key_cache miss":          2,
		"pikokms.key_service.duration ok":      2,
		"pikokms.key_service.duration outage":  outagesToOpen,
		"pikokms.key_service.duration refused": 2,
	} {
		if got[name] != want {
			t.Errorf("%s is %d, not %d", name, got[name], want)
		}
	}
	if !bytes.Contains(events.Bytes(), []byte("from=closed to=open")) {
		t.Errorf("the events are %q", events.String())
	}
	if err := errors.Join(well.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
}

func value(set attribute.Set, name attribute.Key) string {
	v, _ := set.Value(name)
	return v.AsString()
}

// quoting is a provider whose errors quote the encryption context, as those of a key service may.
type quoting struct {
	provider.Provider
	kind error
}

func (q quoting) fail(pairs map[string]string) error {
	return &provider.EncryptionError{Operation: "call", Err: fmt.Errorf("%w: not authorized for context %v", q.kind, pairs)}
}

func (q quoting) GenerateDataKey(_ context.Context, pairs map[string]string) (*provider.DataKey, error) {
	return nil, q.fail(pairs)
}

func (q quoting) WrapDataKey(_ context.Context, _ *provider.SecureBytes, pairs map[string]string) (header.EncryptedDataKey, error) {
	return header.EncryptedDataKey{}, q.fail(pairs)
}

func (q quoting) UnwrapDataKey(_ context.Context, r *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	return nil, q.fail(r.Context)
}

func (q quoting) EncryptsDirectly() bool { return true }

func (q quoting) EncryptDirectly(_ context.Context, _ []byte, pairs map[string]string) ([]byte, string, error) {
	return nil, "", q.fail(pairs)
}

func (q quoting) DecryptDirectly(_ context.Context, _ []byte, pairs map[string]string) ([]byte, error) {
	return nil, q.fail(pairs)
}

// TestPanicIsNoSuccess has a provider panic, which the caller may recover from.
func TestPanicIsNoSuccess(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	s := service.New(panicking{}, service.Config{Telemetry: service.Telemetry{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)),
	}})
	func() {
		defer func() { _ = recover() }()
		_ = s.HealthCheck(t.Context())
	}()
	ended := spans.Ended()
	if len(ended) != 1 || ended[0].Status().Code != codes.Error {
		t.Errorf("the spans are %v", ended)
	}
	if s.State() != service.StateClosed {
		t.Errorf("the breaker is %v", s.State())
	}
}

type panicking struct{ provider.EncryptionProvider }

func (panicking) Type() provider.Type { return "panicking" }

func (panicking) HealthCheck(context.Context) error { panic("a fault of the provider's") }

// TestFailuresTellNoContext searches all that is reported of failing calls for the encryption
// context and the plaintext.
func TestFailuresTellNoContext(t *testing.T) {
	key, err := local.NewProvider(local.Config{Key: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	const name, secret, plaintext = "patient-name", "Ada-Lovelace", "the-diagnosis"
	pairs := map[string]string{name: secret}
	stored, err := (&message.Encrypter{Keyring: key}).Encrypt(t.Context(), []byte(plaintext), pairs)
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]func(s service.Service, pairs map[string]string) error{
		"encrypt a message": func(s service.Service, pairs map[string]string) error {
			_, err := (&message.Encrypter{Keyring: s}).Encrypt(t.Context(), []byte(plaintext), pairs)
			return err
		},
		"encrypt for a recipient": func(s service.Service, pairs map[string]string) error {
			_, err := (&message.Encrypter{Keyring: key, Recipients: []provider.Wrapper{s}}).Encrypt(t.Context(), []byte(plaintext), pairs)
			return err
		},
		"decrypt a message": func(s service.Service, pairs map[string]string) error {
			_, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{s}}).Decrypt(t.Context(), stored, pairs)
			return err
		},
		"encrypt a string": func(s service.Service, pairs map[string]string) error {
			_, err := envelope.Seal(t.Context(), s, plaintext, pairs)
			return err
		},
		"decrypt a string": func(s service.Service, pairs map[string]string) error {
			_, err := envelope.Open(t.Context(), s, "AAAA", pairs)
			return err
		},
		"encrypt a batch": func(s service.Service, pairs map[string]string) error {
			_, err := s.EncryptBatch(t.Context(), []string{plaintext}, pairs)
			return err
		},
	}
	kinds := []error{
		provider.ErrAccessDenied, provider.ErrProviderUnavailable, provider.ErrContextMismatch, provider.ErrInvalidKey,
		context.DeadlineExceeded, errors.New("an error of " + name + " without a sentinel"),
	}
	for _, kind := range kinds {
		for call, run := range calls {
			var reported bytes.Buffer
			spans, err := stdouttrace.New(stdouttrace.WithWriter(&reported))
			if err != nil {
				t.Fatal(err)
			}
			metrics, err := stdoutmetric.New(stdoutmetric.WithWriter(&reported))
			if err != nil {
				t.Fatal(err)
			}
			meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewPeriodicReader(metrics)))
			s := service.New(quoting{key, kind}, service.Config{Cache: &service.CacheLimits{}, Telemetry: service.Telemetry{
				TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)),
				MeterProvider:  meters,
				Logger:         slog.New(slog.NewTextHandler(&reported, nil)),
			}})
			for range outagesToOpen + 1 { // so that the breaker opens, where it does
				if err := run(s, pairs); err == nil {
					t.Fatalf("%s did not fail", call)
				}
			}
			if err := errors.Join(meters.Shutdown(t.Context()), s.Close()); err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{`"error.type"`, "pikokms.key_service.duration"} {
				if !strings.Contains(reported.String(), want) {
					t.Errorf("%s, %v: %s is not reported", call, kind, want)
				}
			}
			for _, hidden := range []string{name, secret, plaintext} {
				if strings.Contains(reported.String(), hidden) {
					t.Errorf("%s, %v: %q is reported: %s", call, kind, hidden, reported.String())
				}
			}
		}
	}
}

// collect returns what the metrics count, by name and result or outcome.
func collect(t *testing.T, reader *sdkmetric.ManualReader) map[string]int64 {
	t.Helper()
	var collected metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &collected); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]int64)
	for _, m := range collected.ScopeMetrics[0].Metrics {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				got[m.Name+" "+value(p.Attributes, "result")] += p.Value
			}
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				got[m.Name+" "+value(p.Attributes, "outcome")] += int64(p.Count)
				if first, last := p.Bounds[0], p.Bounds[len(p.Bounds)-1]; first != 0.001 || last != 30 {
					t.Errorf("the buckets of %s are from %v s to %v s", m.Name, first, last)
				}
			}
		}
	}
	return got
}
