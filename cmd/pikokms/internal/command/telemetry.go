package command

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"piko.sh/pikokms/service"
)

// flushTime is how long the end of the process waits for what is still to be exported.
const flushTime = 5 * time.Second

// telemetry is where spans, metrics and events of a key go: to OpenTelemetry's global providers,
// which do nothing unless startTelemetry set others.
func telemetry() service.Telemetry {
	return service.Telemetry{TracerProvider: otel.GetTracerProvider(), MeterProvider: otel.GetMeterProvider(), Logger: slog.Default()}
}

// flush exports what is still to be exported, and stops telemetry. It is nil if there is none.
var flush atomic.Pointer[func()]

// flushTelemetry ends telemetry, if there is any. It returns when that is done, or after flushTime.
func flushTelemetry() {
	if f := flush.Load(); f != nil {
		(*f)()
	}
}

// startTelemetry exports traces and metrics by OTLP if the environment says where to, or else does
// nothing (OpenTelemetry specification, "OpenTelemetry Protocol Exporter" and "Environment Variable
// Specification"). What goes wrong in exporting is said, and fails nothing.
func startTelemetry(ctx context.Context) error {
	traced, measured := isExported("TRACES"), isExported("METRICS")
	if !traced && !measured {
		return nil
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		say(slog.LevelWarn, "telemetry: "+explain(err))
	}))
	process, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName("pikokms"), semconv.ServiceVersion(version())),
		resource.WithFromEnv()) // which goes before the attributes above
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	var stops []func(context.Context) error
	if traced {
		exporter, err := newSpanExporter(ctx)
		if err != nil {
			return fmt.Errorf("telemetry: %w", err)
		}
		spans := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(process))
		stops = append(stops, spans.Shutdown)
		otel.SetTracerProvider(spans)
	}
	if measured {
		exporter, err := newMetricExporter(ctx)
		if err != nil {
			return fmt.Errorf("telemetry: %w", err)
		}
		metrics := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exporter)), sdkmetric.WithResource(process))
		stops = append(stops, metrics.Shutdown)
		otel.SetMeterProvider(metrics)
	}
	stop := sync.OnceFunc(func() {
		// The work may have ended because ctx did.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
		defer cancel()
		for _, s := range stops {
			if err := s(ctx); err != nil {
				otel.Handle(err)
			}
		}
	})
	flush.Store(&stop)
	return nil
}

// isExported tells whether the environment says where to export a kind of telemetry.
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
