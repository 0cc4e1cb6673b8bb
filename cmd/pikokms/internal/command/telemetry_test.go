package command

import (
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	collectedmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectedtraces "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"piko.sh/pikokms/kmstest"
)

// collector is an OpenTelemetry collector that keeps what it is sent.
type collector struct {
	collectedtraces.UnimplementedTraceServiceServer
	url string

	mu   sync.Mutex
	kept received
}

type received struct {
	spans   map[string]int   // by name
	sums    map[string]int64 // by the metric's name
	service string
	all     string // everything, as text
}

func newCollector(t *testing.T) *collector {
	c := &collector{kept: received{spans: make(map[string]int), sums: make(map[string]int64)}}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// received returns what the collector was sent by now.
func (c *collector) received() received {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.kept
	kept.spans, kept.sums = maps.Clone(kept.spans), maps.Clone(kept.sums)
	return kept
}

// ServeHTTP takes OTLP over HTTP.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	switch r.URL.Path {
	case "/v1/traces":
		var request collectedtraces.ExportTraceServiceRequest
		if err = proto.Unmarshal(body, &request); err == nil {
			_, err = c.Export(r.Context(), &request)
		}
	case "/v1/metrics":
		var request collectedmetrics.ExportMetricsServiceRequest
		if err = proto.Unmarshal(body, &request); err == nil {
			c.measure(&request)
		}
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// Export takes traces over gRPC.
func (c *collector) Export(_ context.Context, request *collectedtraces.ExportTraceServiceRequest) (*collectedtraces.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept.all += request.String()
	for _, resource := range request.ResourceSpans {
		for _, attribute := range resource.Resource.Attributes {
			if attribute.Key == "service.name" {
				c.kept.service = attribute.Value.GetStringValue()
			}
		}
		for _, scope := range resource.ScopeSpans {
			for _, span := range scope.Spans {
				c.kept.spans[span.Name]++
			}
		}
	}
	return &collectedtraces.ExportTraceServiceResponse{}, nil
}

func (c *collector) measure(request *collectedmetrics.ExportMetricsServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept.all += request.String()
	for _, resource := range request.ResourceMetrics {
		for _, scope := range resource.ScopeMetrics {
			for _, metric := range scope.Metrics {
				for _, point := range metric.GetSum().GetDataPoints() {
					c.kept.sums[metric.Name] += point.GetAsInt()
				}
				for _, point := range metric.GetHistogram().GetDataPoints() {
					c.kept.sums[metric.Name] += int64(point.GetCount())
				}
			}
		}
	}
}

// TestTelemetryIsExported encrypts and verifies, and looks at what a collector was sent by the time
// the command ended.
func TestTelemetryIsExported(t *testing.T) {
	kms := kmstest.NewServer(t)
	key := kms.CreateKey(kmstest.Key{})
	kek := "awskms:///" + key.ARN + "?endpoint=" + kms.URL
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	require.NoError(t, os.WriteFile(in, make([]byte, 1000), 0o600))
	run := func(environment []string, arguments ...string) string {
		t.Helper()
		command := exec.CommandContext(t.Context(), "pikokms", arguments...)
		command.Env = append(os.Environ(), "GORACE="+noRaceSleep, "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test")
		command.Env = append(command.Env, environment...)
		output, err := command.CombinedOutput()
		require.NoError(t, err, string(output))
		return string(output)
	}

	c := newCollector(t)
	endpoint := "OTEL_EXPORTER_OTLP_ENDPOINT=" + c.url
	require.Empty(t, run([]string{endpoint, "OTEL_SERVICE_NAME=nightly"}, "encrypt", "-k", kek, "-c", "patient=Ada-Lovelace", "-o", out, in))
	require.Equal(t, "nightly", c.received().service)
	run([]string{endpoint}, "verify", "-k", kek, out)
	got := c.received()
	require.Equal(t, "pikokms", got.service)
	require.Equal(t, map[string]int{"GenerateDataKey": 1, "UnwrapDataKey": 1}, got.spans)
	require.Equal(t, map[string]int64{"pikokms.encrypted": 1000, "pikokms.decrypted": 1000, "pikokms.key_service.duration": 2}, got.sums)
	require.NotContains(t, got.all, "Lovelace")

	// One kind alone, and neither.
	c = newCollector(t)
	run([]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=" + c.url + "/v1/metrics"}, "verify", "-k", kek, out)
	got = c.received()
	require.Empty(t, got.spans)
	require.EqualValues(t, 1000, got.sums["pikokms.decrypted"])
	c = newCollector(t)
	endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=" + c.url
	run([]string{endpoint, "OTEL_SDK_DISABLED=true"}, "verify", "-k", kek, out)
	run([]string{endpoint, "OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none"}, "verify", "-k", kek, out)
	require.Empty(t, c.received().all)

	// By gRPC.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	overGRPC := grpc.NewServer()
	collectedtraces.RegisterTraceServiceServer(overGRPC, c)
	defer overGRPC.Stop()
	go func() { _ = overGRPC.Serve(listener) }()
	run([]string{
		"OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_METRICS_EXPORTER=none",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + listener.Addr().String(),
	}, "verify", "-k", kek, out)
	require.Equal(t, map[string]int{"UnwrapDataKey": 1}, c.received().spans)

	// A collector that does not answer is said, and the work is done all the same.
	said := run([]string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + closedPort(t)}, "verify", "-k", kek, out)
	require.Contains(t, said, "pikokms: telemetry: ")
	require.Contains(t, said, "verified 1 object")

	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.url)
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
	_, stderr, _, err := execute(t, "ls", dir)
	require.Error(t, err)
	require.Contains(t, stderr, `OTEL_EXPORTER_OTLP_PROTOCOL is "http/json"; known are http/protobuf, grpc`)
}
