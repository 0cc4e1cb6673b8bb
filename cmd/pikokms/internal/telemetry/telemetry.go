// Package telemetry exports the traces and metrics of the command by OTLP.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/service"
)

// flushTime is how long the end of the process waits for what is still to be exported.
const flushTime = 5 * time.Second

// Providers returns where the spans, metrics and events of a key go: to OpenTelemetry's global
// providers, which do nothing unless Session.Start set others.
func Providers() service.Telemetry {
	return service.Telemetry{TracerProvider: otel.GetTracerProvider(), MeterProvider: otel.GetMeterProvider(), Logger: slog.Default()}
}

// NamesFlag is the flag that puts the names of objects into traces.
const NamesFlag = "trace-names"

// AddNames adds the flag that puts names into traces.
func AddNames(root *cobra.Command) {
	root.PersistentFlags().Bool(NamesFlag, false, "name objects in traces, which else number them")
}

// Session is the telemetry of one command. Its zero value exports nothing.
type Session struct {
	span atomic.Pointer[trace.Span] // of the command; nil before there is one
	stop atomic.Pointer[func()]     // exports the rest, and stops; nil if nothing is exported
}

// namesKey is the key of a context in which traces have the names of objects.
type namesKey struct{}

func tracer() trace.Tracer { return otel.GetTracerProvider().Tracer("piko.sh/pikokms/cmd/pikokms") }

// TraceCommand begins the span of a command, which is the parent of all others. EndCommand or Flush
// ends it.
func (s *Session) TraceCommand(command *cobra.Command) {
	ctx, span := tracer().Start(command.Context(), command.CommandPath())
	if command.Flags().Lookup(NamesFlag).Value.String() == "true" {
		ctx = context.WithValue(ctx, namesKey{}, true)
	}
	command.SetContext(ctx)
	s.span.Store(&span)
}

// Apart returns a context for work that outlives ctx and has a trace of its own, such as a request
// that a command serves. Its traces name objects if those of ctx do.
func Apart(ctx context.Context) context.Context {
	return trace.ContextWithSpanContext(context.WithoutCancel(ctx), trace.SpanContext{})
}

// EndCommand ends the span of the command.
func (s *Session) EndCommand(err error) {
	if span := s.span.Load(); span != nil {
		setFailure(*span, err)
		(*span).End()
	}
}

// TraceObject begins the span of the work on an object, which is the parent of those of the calls
// that it takes. The index is the object's number, from 0, and the size is in bytes or -1. The
// caller calls end with the outcome.
func TraceObject(ctx context.Context, index int64, name string, size int64) (objectCtx context.Context, end func(result string, err error)) {
	attributes := []attribute.KeyValue{attribute.Int64("pikokms.object.index", index)}
	if size >= 0 {
		attributes = append(attributes, attribute.Int64("pikokms.object.size", size))
	}
	if ctx.Value(namesKey{}) != nil {
		attributes = append(attributes, attribute.String("pikokms.object.name", name))
	}
	objectContext, span := tracer().Start(ctx, "object", trace.WithAttributes(attributes...))
	return objectContext, func(result string, err error) {
		if err != nil {
			result = "failed"
		}
		span.SetAttributes(attribute.String("pikokms.result", result))
		setFailure(span, err)
		span.End()
	}
}

// namedErrors are the errors that traces name, in the order in which they are looked for. An
// error's own text may quote names and encryption contexts.
var namedErrors = []error{
	provider.ErrAccessDenied, provider.ErrKeyDisabled, provider.ErrKeyPendingDeletion, provider.ErrKeyNotFound, provider.ErrUntrustedKey,
	provider.ErrProviderUnavailable, provider.ErrContextMismatch, provider.ErrDecryptionFailed, provider.ErrInvalidCiphertext,
	pikokms.ErrPlaintext, pikokms.ErrChanged, fs.ErrNotExist, fs.ErrPermission, context.Canceled, context.DeadlineExceeded,
}

// setFailure marks a span as failed if there is an error.
func setFailure(span trace.Span, err error) {
	if err == nil {
		return
	}
	kind := "other"
	if i := slices.IndexFunc(namedErrors, func(known error) bool { return errors.Is(err, known) }); i >= 0 {
		kind = namedErrors[i].Error()
	}
	span.SetAttributes(attribute.String("error.type", kind))
	span.SetStatus(codes.Error, kind)
}

// Flush ends telemetry, if there is any. It returns when that is done, or after flushTime.
func (s *Session) Flush() {
	s.EndCommand(nil) // unless it has ended
	if stop := s.stop.Load(); stop != nil {
		(*stop)()
	}
}

// Start exports traces and metrics by OTLP if the environment names an endpoint, or else does
// nothing (OpenTelemetry specification, "OpenTelemetry Protocol Exporter" and "Environment Variable
// Specification"). Errors of the export are logged, and don't fail the command.
func (s *Session) Start(ctx context.Context) {
	traced, measured := isExported("TRACES"), isExported("METRICS")
	if !traced && !measured {
		return
	}
	warn := func(err error) {
		console.Say(slog.LevelWarn, fmt.Sprintf("telemetry to %s: %s", endpoints(), console.Explain(err)), "endpoint", endpoints())
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(warn))
	process, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName("pikokms"), semconv.ServiceVersion(console.Version())),
		resource.WithFromEnv()) // which goes before the attributes above
	if err != nil {
		warn(err) // the resource has the attributes that could be parsed
	}
	var stops []func(context.Context) error
	if traced {
		if exporter, err := newSpanExporter(ctx); err != nil {
			warn(err)
		} else {
			spans := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(process))
			stops = append(stops, spans.Shutdown)
			otel.SetTracerProvider(spans)
		}
	}
	if measured {
		if exporter, err := newMetricExporter(ctx); err != nil {
			warn(err)
		} else {
			metrics := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exporter)), sdkmetric.WithResource(process))
			stops = append(stops, metrics.Shutdown)
			otel.SetMeterProvider(metrics)
		}
	}
	stop := sync.OnceFunc(func() {
		// The work may have ended because ctx did.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
		defer cancel()
		for _, shutDown := range stops {
			if err := shutDown(ctx); err != nil {
				otel.Handle(err)
			}
		}
	})
	s.stop.Store(&stop)
}

// endpoints names where telemetry goes, in the order in which a user would look.
func endpoints() string {
	var named []string
	for _, variable := range []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"} {
		if url := os.Getenv(variable); url != "" {
			named = append(named, variable+"="+provider.RedactURL(url))
		}
	}
	if named == nil {
		return "the usual endpoint on this computer"
	}
	return strings.Join(named, " ")
}

// isExported reports whether the environment asks for the export of a kind of telemetry.
func isExported(kind string) bool {
	if os.Getenv("OTEL_SDK_DISABLED") == "true" || os.Getenv("OTEL_"+kind+"_EXPORTER") == "none" {
		return false
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+kind+"_ENDPOINT") != "" ||
		os.Getenv("OTEL_"+kind+"_EXPORTER") == "otlp"
}

// The protocols of OTLP.
const (
	protocolHTTP = "http/protobuf"
	protocolGRPC = "grpc"
)

// protocolOf returns the protocol for a kind of telemetry.
func protocolOf(kind string) (string, error) {
	variable := "OTEL_EXPORTER_OTLP_" + kind + "_PROTOCOL"
	if os.Getenv(variable) == "" {
		variable = "OTEL_EXPORTER_OTLP_PROTOCOL"
	}
	switch protocol := os.Getenv(variable); protocol {
	case "", protocolHTTP:
		return protocolHTTP, nil
	case protocolGRPC:
		return protocolGRPC, nil
	default:
		return "", fmt.Errorf("%s is %q; known are %s, %s", variable, protocol, protocolHTTP, protocolGRPC)
	}
}

func newSpanExporter(ctx context.Context) (*otlptrace.Exporter, error) {
	protocol, err := protocolOf("TRACES")
	if err != nil {
		return nil, err
	}
	if protocol == protocolGRPC {
		return otlptracegrpc.New(ctx)
	}
	return otlptracehttp.New(ctx)
}

func newMetricExporter(ctx context.Context) (sdkmetric.Exporter, error) {
	protocol, err := protocolOf("METRICS")
	if err != nil {
		return nil, err
	}
	if protocol == protocolGRPC {
		return otlpmetricgrpc.New(ctx)
	}
	return otlpmetrichttp.New(ctx)
}
