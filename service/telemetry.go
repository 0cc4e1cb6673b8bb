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

const instrumentationScope = "piko.sh/pikokms/service"

// Telemetry is where spans, metrics and events go. A nil field means nowhere. They never contain
// key material, plaintext, an encryption context or the text of an error, which may quote one.
//
// Each call of the key service is a span with the operation's name, even if the breaker refuses it.
// It has the attribute provider. If the call failed, error.type is the sentinel that the error
// holds. The metrics, with their units and attributes, are
//
//	pikokms.key_service.duration   seconds; operation, outcome, provider
//	pikokms.encrypted              bytes under data keys of the provider
//	pikokms.decrypted              bytes under data keys of the provider
//	pikokms.data_key_cache         requests; result (hit, miss), provider
//	pikokms.breaker.state          0 closed, 1 half-open, 2 open; provider
//
// An event is a change of the breaker's state.
//
// The outcome of a call is ok, error, outage, refused (by the breaker) or abandoned (the caller's
// context ended first). If the context has ended before the call, no call is recorded.
type Telemetry struct {
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	Logger         *slog.Logger
}

// instruments are made by a Telemetry's providers. Those that are nil are not used.
type instruments struct {
	tracer    trace.Tracer
	duration  metric.Float64Histogram
	encrypted metric.Int64Counter
	decrypted metric.Int64Counter
	cached    metric.Int64Counter
	gauge     metric.Registration
	provider  attribute.KeyValue
}

// durations are the upper bounds in seconds of the buckets of durations. They range from the
// milliseconds of a local key to a call with all its retries.
var durations = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}

// newInstruments makes the instruments. The state is that of the breaker, or nil if there is none.
// It reports failures to OpenTelemetry's error handler, since encryption must not depend on
// telemetry.
func newInstruments(t Telemetry, kind provider.Type, state func() State) *instruments {
	i := &instruments{provider: attribute.String("provider", string(kind))}
	if t.TracerProvider != nil {
		i.tracer = t.TracerProvider.Tracer(instrumentationScope)
	}
	if t.MeterProvider == nil {
		return i
	}
	meter := t.MeterProvider.Meter(instrumentationScope)
	var failures [5]error
	i.duration, failures[0] = meter.Float64Histogram("pikokms.key_service.duration", metric.WithUnit("s"),
		metric.WithDescription("Calls of the key service, refused ones too"), metric.WithExplicitBucketBoundaries(durations...))
	i.encrypted, failures[1] = meter.Int64Counter("pikokms.encrypted", metric.WithUnit("By"),
		metric.WithDescription("Bytes encrypted under data keys"))
	i.decrypted, failures[2] = meter.Int64Counter("pikokms.decrypted", metric.WithUnit("By"),
		metric.WithDescription("Bytes decrypted under data keys"))
	i.cached, failures[3] = meter.Int64Counter("pikokms.data_key_cache", metric.WithUnit("{request}"),
		metric.WithDescription("Data keys asked for"))
	if state != nil {
		i.gauge, failures[4] = i.observe(meter, state)
	}
	if err := errors.Join(failures[:]...); err != nil {
		otel.Handle(err)
	}
	return i
}

// observe makes a meter report the breaker's state.
func (i *instruments) observe(meter metric.Meter, state func() State) (metric.Registration, error) {
	gauge, err := meter.Int64ObservableGauge("pikokms.breaker.state", metric.WithDescription("0 closed, 1 half-open, 2 open"))
	if err != nil {
		return nil, err
	}
	return meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(gauge, int64(state()), metric.WithAttributes(i.provider))
		return nil
	}, gauge)
}

// call begins a span. It returns a function that ends the span, with the call's error and the
// breaker's verdict on it.
func (i *instruments) call(ctx context.Context, operation string) (context.Context, func(err, verdict error)) {
	var span trace.Span
	if i.tracer != nil {
		ctx, span = i.tracer.Start(ctx, operation, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(i.provider))
	}
	begin := time.Now()
	return ctx, func(err, verdict error) {
		result := outcome(err, verdict)
		if i.duration != nil {
			i.duration.Record(ctx, time.Since(begin).Seconds(),
				metric.WithAttributes(i.provider, attribute.String("operation", operation), attribute.String("outcome", result)))
		}
		if span == nil {
			return
		}
		if result != "ok" {
			span.SetAttributes(attribute.String("error.type", kind(err)))
			span.SetStatus(codes.Error, result)
		}
		span.End()
	}
}

func outcome(err, verdict error) string {
	switch {
	case err == nil && verdict == nil:
		return "ok"
	case errors.Is(err, ErrBreakerOpen):
		return "refused"
	case errors.Is(verdict, errOutage):
		return "outage"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "abandoned"
	}
	return "error"
}

// kind returns the text of the sentinel that an error holds. The error's own text may quote an
// encryption context.
func kind(err error) string {
	for _, sentinel := range [...]error{ErrBreakerOpen, provider.Sentinel(err), context.Canceled, context.DeadlineExceeded} {
		if sentinel != nil && errors.Is(err, sentinel) {
			return sentinel.Error()
		}
	}
	return "_OTHER" // OpenTelemetry's semantic conventions, "error.type"
}

// countEncrypted makes a data key count the bytes that are encrypted under it.
func (i *instruments) countEncrypted(ctx context.Context, key *provider.DataKey) {
	i.countBytes(ctx, key, i.encrypted)
}

// countDecrypted makes a data key count the bytes that are decrypted under it.
func (i *instruments) countDecrypted(ctx context.Context, key *provider.DataKey) {
	i.countBytes(ctx, key, i.decrypted)
}

func (i *instruments) countBytes(ctx context.Context, key *provider.DataKey, counter metric.Int64Counter) {
	if counter == nil {
		return
	}
	next := key.Count
	key.Count = func(bytes int) {
		if next != nil {
			next(bytes)
		}
		counter.Add(ctx, int64(bytes), metric.WithAttributes(i.provider))
	}
}

// countCached counts a request to the cache.
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
