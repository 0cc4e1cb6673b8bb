package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/gofiber/fiber/v3"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"piko.sh/pikokms/service"
)

const instrumentation = "piko.sh/pikokms/cmd/pikokms-gateway"

// server handles requests before and after the engine: it traces and counts them, and answers
// probes.
type server struct {
	keys *keys

	listening, stopping atomic.Bool
	requests            atomic.Int64 // under way

	tracer   trace.Tracer
	duration metric.Float64Histogram
}

func newServer(k *keys) (*server, error) {
	s := &server{keys: k, tracer: otel.Tracer(instrumentation)}
	var err error
	s.duration, err = otel.Meter(instrumentation).Float64Histogram("http.server.request.duration",
		metric.WithUnit("s"), metric.WithDescription("Duration of HTTP server requests."))
	return s, err
}

// retryAfter is how long a client is asked to wait for a key service that is down.
const retryAfter = 5 * time.Second

// handle traces and counts a request, and passes it on to the engine.
func (s *server) handle(c fiber.Ctx) error {
	s.requests.Add(1)
	defer s.requests.Add(-1)
	begin, method := time.Now(), strings.Clone(c.Method())
	_, span := s.tracer.Start(context.Background(), method, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attribute.String("http.request.method", method)))
	defer span.End()
	c.RequestCtx().SetUserValue(spanKey{}, span)
	err := func() error {
		defer recovered(c.RequestCtx()) // the engine would keep the stack to itself
		return s.next(c)
	}()
	authorizeForm(c.RequestCtx()) // the engine reads some more of a refused form, so that the client gets the answer
	status := c.Response().StatusCode()
	if status == http.StatusServiceUnavailable && len(c.Response().Header.Peek("Retry-After")) == 0 {
		c.Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	}
	if s.stopping.Load() {
		c.Response().SetConnectionClose()
	}
	span.SetAttributes(attribute.Int("http.response.status_code", status))
	if status >= 500 {
		span.SetStatus(codes.Error, "")
	}
	s.duration.Record(context.Background(), time.Since(begin).Seconds(), metric.WithAttributes(
		attribute.String("http.request.method", method), attribute.Int("http.response.status_code", status)))
	return err
}

// next hands a request on to the engine, unless it is about a bucket that is not served.
func (s *server) next(c fiber.Ctx) error {
	bucket, _, _ := strings.Cut(strings.TrimPrefix(c.Path(), "/"), "/")
	if s.keys.bucket == "" || bucket == s.keys.bucket || c.Path() == "/" && c.Method() == http.MethodGet {
		return c.Next()
	}
	refusal := s3err.GetAPIError(s3err.ErrAccessDenied)
	c.Set("Content-Type", "application/xml")
	return c.Status(http.StatusForbidden).Send(refusal.XMLBody("", ""))
}

// counted is a backend whose requests are counted until their answers are sent.
type counted struct {
	backend.Backend
	s *server
}

func (s *server) count(b backend.Backend) backend.Backend { return counted{b, s} }

// GetObject counts a request until the content is sent, which is after handle has returned.
func (b counted) GetObject(ctx context.Context, in *s3.GetObjectInput) (*s3.GetObjectOutput, error) {
	out, err := b.Backend.GetObject(ctx, in)
	if err == nil && out.Body != nil {
		b.s.requests.Add(1)
		out.Body = &countedBody{ReadCloser: out.Body, s: b.s}
	}
	return out, err
}

// countedBody is the content of an answer. Its request is counted until Close.
type countedBody struct {
	io.ReadCloser
	s      *server
	closed bool
}

func (a *countedBody) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, a.ReadCloser) }

func (a *countedBody) Close() error {
	if !a.closed {
		a.closed = true
		a.s.requests.Add(-1)
	}
	return a.ReadCloser.Close()
}

// PutObject stores an object, which may be that of a form.
func (b counted) PutObject(ctx context.Context, in s3response.PutObjectInput) (s3response.PutObjectOutput, error) {
	authorizeForm(ctx)
	return b.Backend.PutObject(ctx, in)
}

// CompleteMultipartUpload counts a request whose answer may begin long before it is done.
func (b counted) CompleteMultipartUpload(ctx context.Context, in *s3.CompleteMultipartUploadInput) (s3response.CompleteMultipartUploadResult, string, error) {
	b.s.requests.Add(1)
	defer b.s.requests.Add(-1)
	return b.Backend.CompleteMultipartUpload(ctx, in)
}

// ListBuckets lists the buckets that are served.
func (b counted) ListBuckets(ctx context.Context, in s3response.ListBucketsInput) (s3response.ListAllMyBucketsResult, error) {
	out, err := b.Backend.ListBuckets(ctx, in)
	if b.s.keys.bucket != "" {
		out.Buckets.Bucket = slices.DeleteFunc(out.Buckets.Bucket, func(e s3response.ListAllMyBucketsEntry) bool { return e.Name != b.s.keys.bucket })
	}
	return out, err
}

// serveHealth answers probes on an address of their own until the process ends. The gateway is
// alive if it answers. It is ready if it listens, is not stopping, and has no circuit breaker open.
func (s *server) serveHealth(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		type key struct{ Key, Breaker string }
		answer := struct {
			Ready, Stopping bool
			Requests        int64
			Keys            []key
		}{s.listening.Load() && !s.stopping.Load(), s.stopping.Load(), s.requests.Load(), nil}
		for _, k := range s.keys.services {
			state := k.State()
			answer.Ready = answer.Ready && state != service.StateOpen
			answer.Keys = append(answer.Keys, key{k.name, state.String()})
		}
		w.Header().Set("Content-Type", "application/json")
		if !answer.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(answer)
	})
	go func() {
		h := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
		if err := h.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("--health", "error", err)
		}
	}()
	return nil
}
