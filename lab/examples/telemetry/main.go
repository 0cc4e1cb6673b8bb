// Command telemetry shows what a host reports of its key service: spans, metrics and events,
// printed as JSON. The key service here is a local key; with AWS KMS the reports are the same.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"go.opentelemetry.io/otel/exporters/stdout/stdoutmetric"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/service"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "telemetry:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	spans, err := stdouttrace.New(stdouttrace.WithWriter(out))
	if err != nil {
		return err
	}
	traces := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	defer func() { err = errors.Join(err, traces.Shutdown(ctx)) }()
	values, err := stdoutmetric.New(stdoutmetric.WithWriter(out))
	if err != nil {
		return err
	}
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewPeriodicReader(values)))
	defer func() { err = errors.Join(err, meters.Shutdown(ctx)) }() // prints the metrics

	dir, err := os.MkdirTemp("", "pikokms-telemetry")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := local.Generate(dir + "/dev.key"); err != nil {
		return err
	}
	key, err := local.NewProvider(local.Config{KeyFile: dir + "/dev.key"})
	if err != nil {
		return err
	}
	defer key.Close()
	folder, err := folderstorage.New(dir + "/objects")
	if err != nil {
		return err
	}
	defer folder.Close()
	host, err := pikokms.New(
		pikokms.WithCryptoProvider("dev", key),
		pikokms.WithDefaultCryptoProvider("dev"),
		pikokms.WithDataKeyCache(service.CacheLimits{}),
		pikokms.WithTelemetry(service.Telemetry{TracerProvider: traces, MeterProvider: meters, Logger: slog.New(slog.NewJSONHandler(out, nil))}),
		pikokms.WithStorage(folder),
	)
	if err != nil {
		return err
	}
	for i := range 3 {
		if err := host.Put(ctx, fmt.Sprintf("objects/%d", i), strings.NewReader("content")); err != nil {
			return err
		}
	}
	content, err := host.Get(ctx, "objects/0")
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, content)
	if err := errors.Join(err, content.Close()); err != nil {
		return err
	}
	if err := meters.ForceFlush(ctx); err != nil {
		return err
	}
	return host.Close()
}
