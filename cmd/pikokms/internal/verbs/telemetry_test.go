package verbs

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	collectedmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectedtraces "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
)

// collector is an OpenTelemetry collector that keeps what it is sent.
type collector struct {
	collectedtraces.UnimplementedTraceServiceServer
	url string

	mu   sync.Mutex
	kept received
	ids  map[string]string // the name of a span, by its ID
	up   map[string]string // the ID of a span's parent, by its ID
}

type received struct {
	spans   map[string]int    // by name
	sums    map[string]int64  // by the metric's name
	parents map[string]string // by the name of a span, the name of its parent
	failed  map[string]string // by the index of an object, the error.type of its span
	names   []string          // of objects
	service string
	all     string // everything, as text
}

func newCollector(t *testing.T) *collector {
	c := &collector{ids: make(map[string]string), up: make(map[string]string),
		kept: received{spans: make(map[string]int), sums: make(map[string]int64), failed: make(map[string]string)}}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// received returns what the collector was sent so far.
func (c *collector) received() received {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.kept
	kept.spans, kept.sums, kept.failed = maps.Clone(kept.spans), maps.Clone(kept.sums), maps.Clone(kept.failed)
	kept.parents = make(map[string]string)
	for id, name := range c.ids {
		kept.parents[name] = c.ids[c.up[id]]
	}
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
				c.ids[string(span.SpanId)] = span.Name
				c.up[string(span.SpanId)] = string(span.ParentSpanId)
				attributes := make(map[string]string)
				for _, a := range span.Attributes {
					attributes[a.Key] = a.Value.GetStringValue()
					if a.Key == "pikokms.object.index" {
						attributes[a.Key] = fmt.Sprint(a.Value.GetIntValue())
					}
				}
				if kind := attributes["error.type"]; kind != "" && span.Name == "object" {
					c.kept.failed[attributes["pikokms.object.index"]] = kind
				}
				if name := attributes["pikokms.object.name"]; name != "" {
					c.kept.names = append(c.kept.names, name)
				}
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
	require.Equal(t, map[string]int{"GenerateDataKey": 1, "UnwrapDataKey": 1, "object": 2, "pikokms encrypt": 1, "pikokms verify": 1}, got.spans)
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
	require.Equal(t, map[string]int{"UnwrapDataKey": 1, "object": 1, "pikokms verify": 1}, c.received().spans)

	// A collector that does not answer is reported, and the work is done nevertheless.
	said := run([]string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + closedPort(t)}, "verify", "-k", kek, out)
	require.Contains(t, said, "pikokms: telemetry to OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:")
	require.Contains(t, said, "verified 1 object")

	// Errors of telemetry name its endpoint, and don't fail the command.
	for _, wrong := range []string{"OTEL_EXPORTER_OTLP_PROTOCOL=http/json", "OTEL_RESOURCE_ATTRIBUTES=%zz", "OTEL_EXPORTER_OTLP_CERTIFICATE=missing.pem"} {
		said := run([]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://user:SECRET@" + strings.TrimPrefix(closedPort(t), "http://"), wrong}, "verify", "-k", kek, out)
		require.Regexp(t, `pikokms: telemetry to OTEL_EXPORTER_OTLP_ENDPOINT=http://xxxxx@127.0.0.1:[0-9]+: `, said, wrong)
		require.NotContains(t, said, "SECRET", wrong)
		require.Contains(t, said, "verified 1 object", wrong)
	}
	require.Contains(t, run([]string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.url, "OTEL_EXPORTER_OTLP_PROTOCOL=http/json"}, "verify", "-k", kek, out),
		`OTEL_EXPORTER_OTLP_PROTOCOL is "http/json"; known are http/protobuf, grpc`)
}

// TestTracesShowWhichObjectFailed checks that a trace shows which object was denied: by its number
// or, with --trace-names, by its name.
func TestTracesShowWhichObjectFailed(t *testing.T) {
	kms := kmstest.NewServer(t)
	kms.CreateKey(kmstest.Key{})
	good, bad := kms.CreateKey(kmstest.Key{}), kms.CreateKey(kmstest.Key{})
	url := func(k kmstest.Key) string { return "awskms:///" + k.ARN + "?endpoint=" + kms.URL }
	dir := t.TempDir()
	for i, key := range []kmstest.Key{good, bad, good} {
		in := filepath.Join(t.TempDir(), "in")
		require.NoError(t, os.WriteFile(in, []byte("x"), 0o600))
		_, stderr, _, err := execute(t, "encrypt", "-k", url(key), "-o", filepath.Join(dir, fmt.Sprintf("private-%d", i)), in)
		require.NoError(t, err, stderr)
	}
	kms.Inject(kmstest.Fault{Key: bad.ARN, Do: kmstest.Deny()})
	for _, names := range []bool{false, true} {
		c := newCollector(t)
		t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", c.url+"/v1/traces")
		arguments := []string{"verify", "-k", url(good), "-k", url(bad), "--report", filepath.Join(t.TempDir(), "report"), dir}
		if names {
			arguments = append(arguments, "--trace-names")
		}
		_, _, _, err := execute(t, arguments...)
		require.Error(t, err)
		got := c.received()
		require.Equal(t, "object", got.parents["UnwrapDataKey"])
		require.Equal(t, "pikokms verify", got.parents["object"])
		require.Empty(t, got.parents["pikokms verify"])
		require.Equal(t, map[string]string{"1": provider.ErrAccessDenied.Error()}, got.failed)
		if names {
			require.Len(t, got.names, 3)
			require.Contains(t, got.names, filepath.ToSlash(dir)+"/private-1")
		} else {
			require.NotContains(t, got.all, "private-")
		}
	}
}

// TestServeTracesNames checks that serve traces each request by itself, with the names of objects
// if --trace-names is set.
func TestServeTracesNames(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows sends no such signals")
	}
	key := "local:" + filepath.Join(t.TempDir(), "dev.key")
	_, stderr, _, err := execute(t, "keygen", "-o", strings.TrimPrefix(key, "local:"))
	require.NoError(t, err, stderr)
	dir := fill(t, map[string]string{"a.txt": "content"}, "-k", key)
	c := newCollector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", c.url+"/v1/traces")
	s := serve(t, "-k", key, "--trace-names", dir)
	_, body := s.ask(http.MethodGet, "/a.txt")
	require.Equal(t, "content", body)
	require.NoError(t, s.command.Process.Signal(syscall.SIGTERM))
	require.NoError(t, <-s.ended)
	got := c.received()
	require.Contains(t, got.names, filepath.Join(dir, "a.txt"))
	require.Empty(t, got.parents["object"])
}
