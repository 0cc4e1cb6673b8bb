package service

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"piko.sh/pikokms/provider"
)

const scope = "piko.sh/pikokms/service"

// Telemetry says where spans, metrics and events go. A nil field means nowhere. None of them ever holds key material, plaintext
// or an encryption context; errors name keys.
//
//	span       each call of the key service, refused ones too, named by its operation
//	metrics    pikokms.key_service.duration   seconds; operation, outcome (ok, error, outage, refused), provider
//	           pikokms.encrypted              bytes under data keys of the provider
//	           pikokms.data_key_cache         requests; result (hit, miss), provider
//	           pikokms.breaker.state          0 closed, 1 half-open, 2 open; provider
//	events     changes of the breaker's state
type Telemetry struct {
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	Logger         *slog.Logger
}

// instruments are what a Telemetry's providers gave. A nil instrument is not used.
type instruments struct {
	tracer    trace.Tracer
	duration  metric.Float64Histogram
	encrypted metric.Int64Counter
	cached    metric.Int64Counter
	gauge     metric.Registration
	provider  attribute.KeyValue
}

// newInstruments reports what goes wrong to OpenTelemetry's error handler: encryption does not wait for telemetry.
func newInstruments(t Telemetry, s *Service) *instruments {
	i := &instruments{provider: attribute.String("provider", string(s.Type()))}
	if t.TracerProvider != nil {
		i.tracer = t.TracerProvider.Tracer(scope)
	}
	if t.MeterProvider == nil {
		return i
	}
	meter := t.MeterProvider.Meter(scope)
	var failures [5]error
	i.duration, failures[0] = meter.Float64Histogram("pikokms.key_service.duration", metric.WithUnit("s"), metric.WithDescription("Calls of the key service, refused ones too"))
	i.encrypted, failures[1] = meter.Int64Counter("pikokms.encrypted", metric.WithUnit("By"), metric.WithDescription("Bytes encrypted under data keys"))
	i.cached, failures[2] = meter.Int64Counter("pikokms.data_key_cache", metric.WithUnit("{request}"), metric.WithDescription("Data keys asked for"))
	state, err := meter.Int64ObservableGauge("pikokms.breaker.state", metric.WithDescription("0 closed, 1 half-open, 2 open"))
	if failures[3] = err; err == nil {
		i.gauge, failures[4] = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
			o.ObserveInt64(state, int64(s.State()), metric.WithAttributes(i.provider))
			return nil
		}, state)
	}
	if err := errors.Join(failures[:]...); err != nil {
		otel.Handle(err)
	}
	return i
}

// call begins a span, and returns what ends it with the call's error.
func (i *instruments) call(ctx context.Context, operation string) (context.Context, func(error)) {
	var span trace.Span
	if i.tracer != nil {
		ctx, span = i.tracer.Start(ctx, operation, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(i.provider))
	}
	begin := time.Now()
	return ctx, func(err error) {
		if i.duration != nil {
			i.duration.Record(ctx, time.Since(begin).Seconds(), metric.WithAttributes(i.provider, attribute.String("operation", operation), attribute.String("outcome", outcome(err))))
		}
		if span == nil {
			return
		}
		if err != nil {
			span.RecordError(err)
			span.SetStatus(codes.Error, outcome(err))
		}
		span.End()
	}
}

func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrOpen):
		return "refused"
	case isOutage(err):
		return "outage"
	}
	return "error"
}

// countEncrypted has the bytes under a data key counted.
func (i *instruments) countEncrypted(ctx context.Context, key *provider.DataKey) {
	if i.encrypted == nil {
		return
	}
	next := key.Count
	key.Count = func(bytes int) {
		if next != nil {
			next(bytes)
		}
		i.encrypted.Add(ctx, int64(bytes), metric.WithAttributes(i.provider))
	}
}

// countCached notes a request to the cache.
func (i *instruments) countCached(ctx context.Context, result string) {
	if i.cached != nil {
		i.cached.Add(ctx, 1, metric.WithAttributes(i.provider, attribute.String("result", result)))
	}
}

func (i *instruments) close() error {
	if i.gauge == nil {
		return nil
	}
	return i.gauge.Unregister()
}
