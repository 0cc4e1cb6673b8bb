package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// flushTime is how long the end of the process waits for what is still to be exported.
const flushTime = 5 * time.Second

// startTelemetry exports traces and metrics as the environment says (OpenTelemetry specification,
// "Environment Variable Specification"), or else does nothing. The caller calls finish at the end.
func startTelemetry(ctx context.Context) (finish func(), err error) {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { slog.Warn("telemetry", "error", err) }))
	process, err := resource.New(ctx, resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName("pikokms-gateway"), semconv.ServiceVersion(version())), resource.WithFromEnv())
	if err != nil {
		slog.Warn("telemetry", "error", err) // the resource has the attributes that could be parsed
	}
	var ends []func(context.Context) error
	if isExported("TRACES") {
		exporter, err := autoexport.NewSpanExporter(ctx)
		if err != nil {
			return nil, err
		}
		spans := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(process))
		otel.SetTracerProvider(spans)
		ends = append(ends, spans.Shutdown)
	}
	if isExported("METRICS") {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return nil, err
		}
		metrics := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithResource(process))
		otel.SetMeterProvider(metrics)
		ends = append(ends, metrics.Shutdown)
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
		defer cancel()
		for _, end := range ends {
			if err := end(ctx); err != nil && !errors.Is(err, context.Canceled) {
				otel.Handle(err)
			}
		}
	}, nil
}

// isExported reports whether the environment asks for the export of a kind of telemetry.
func isExported(kind string) bool {
	exporter := os.Getenv("OTEL_" + kind + "_EXPORTER")
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || exporter == "none" {
		return false
	}
	return exporter != "" || os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+kind+"_ENDPOINT") != ""
}
