package s3storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// WithIdleLimit limits how long the service may neither take nor send a byte of one request,
// whatever the request's context. It also ends a request that is redirected for ever. The SDK
// retries as the client's options configure, unless content was being read: then its Read fails.
// The error holds [os.ErrDeadlineExceeded]. Without this option, there is no limit.
func WithIdleLimit(limit time.Duration) Option {
	return func(s *Storage) {
		s.client = s3.New(s.client.Options(), func(o *s3.Options) { o.HTTPClient = &idleClient{o.HTTPClient, limit} })
	}
}

// idleError means that the service neither took nor sent a byte for longer than the limit.
type idleError struct{ limit time.Duration }

func (e idleError) Error() string {
	return fmt.Sprintf("the service neither takes nor sends anything for %v", e.limit)
}

func (idleError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

type idleClient struct {
	s3.HTTPClient
	limit time.Duration
}

func (c *idleClient) Do(request *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(request.Context())
	w := &watch{ctx: ctx, cancel: cancel, limit: c.limit}
	w.timer = time.AfterFunc(c.limit, func() { cancel(idleError{c.limit}) })
	request = request.WithContext(ctx)
	if request.Body != nil && request.Body != http.NoBody {
		request.Body = &watchedRequest{request.Body, w}
	}
	response, err := c.HTTPClient.Do(request)
	if err != nil {
		return nil, w.end(err)
	}
	w.timer.Stop()
	response.Body = &watchedAnswer{response.Body, w}
	return response, nil
}

// watch ends a request if its timer runs out.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
}

// end ends the request, and returns why it failed.
func (w *watch) end(err error) error {
	w.timer.Stop()
	if idle, ok := errors.AsType[idleError](context.Cause(w.ctx)); ok {
		err = idle
	}
	w.cancel(nil)
	return err
}

// watchedRequest is the body of a request. Each read of it is progress.
type watchedRequest struct {
	io.ReadCloser
	watch *watch
}

func (b *watchedRequest) Read(p []byte) (int, error) {
	// A timer that has run out has ended the request already.
	if b.watch.timer.Stop() {
		b.watch.timer.Reset(b.watch.limit)
	}
	return b.ReadCloser.Read(p)
}

// watchedAnswer is the body of an answer. The time between two reads is the caller's own.
type watchedAnswer struct {
	io.ReadCloser
	watch *watch
}

func (b *watchedAnswer) Read(p []byte) (int, error) {
	b.watch.timer.Reset(b.watch.limit)
	n, err := b.ReadCloser.Read(p)
	b.watch.timer.Stop()
	if err != nil && err != io.EOF {
		err = b.watch.end(err)
	}
	return n, err
}

func (b *watchedAnswer) Close() error {
	b.watch.timer.Stop()
	defer b.watch.cancel(nil)
	return b.ReadCloser.Close()
}
