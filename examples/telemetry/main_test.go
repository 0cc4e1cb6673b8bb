package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/service"
)

func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"Name":"GenerateDataKey"`, "pikokms.key_service.duration", "pikokms.encrypted", "pikokms.data_key_cache", "pikokms.breaker.state"} {
		if !bytes.Contains(out.Bytes(), []byte(want)) {
			t.Errorf("%s is not reported", want)
		}
	}
	if bytes.Contains(out.Bytes(), []byte("content")) {
		t.Error("the plaintext is reported")
	}
}

// down is a provider whose key service is out.
type down struct{ *local.Provider }

func (down) GenerateDataKey(context.Context, *provider.GenerateDataKeyRequest) (*provider.DataKey, error) {
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
		if _, err := (&message.Encrypter{Keyring: well}).Encrypt(t.Context(), make([]byte, 1000), nil); err != nil {
			t.Fatal(err)
		}
	}
	for range service.Failures + 2 {
		if _, err := (&message.Encrypter{Keyring: out}).Encrypt(t.Context(), nil, nil); !errors.Is(err, provider.ErrProviderUnavailable) {
			t.Fatal(err)
		}
	}

	if n := len(spans.Ended()); n != 1+service.Failures+2 {
		t.Errorf("%d spans", n)
	}
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
			}
		}
	}
	for name, want := range map[string]int64{
		"pikokms.encrypted ":                   3000,
		"pikokms.data_key_cache hit":           2,
		"pikokms.data_key_cache miss":          1,
		"pikokms.key_service.duration ok":      1,
		"pikokms.key_service.duration outage":  service.Failures,
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
