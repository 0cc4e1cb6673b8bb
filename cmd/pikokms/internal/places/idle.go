package places

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/idle"
)

// defaultStorageTimeout is how long a storage may stand still. AWS's own tools wait as long for
// bytes, and S3 sends some at least every 20 seconds while it puts an upload together.
const defaultStorageTimeout = time.Minute

const timeoutFlag = "storage-timeout"

// AddTimeout adds the flag of the timeout.
func (o *Opener) AddTimeout(command *cobra.Command) {
	o.AddInstructionSuffix(command.Flags())
	command.Flags().DurationVar(&o.Timeout, timeoutFlag, defaultStorageTimeout, "how long a storage may take without a byte read or written; 0 is for ever")
}

// CheckTimeout returns an error if the flag of the timeout, if there is one, is negative.
func CheckTimeout(flags *pflag.FlagSet) error {
	if timeout, err := flags.GetDuration(timeoutFlag); err == nil && timeout < 0 {
		return console.Usage(fmt.Errorf("--storage-timeout is %v; give a time such as 1m, or 0 to wait for ever", timeout))
	}
	return nil
}

// idleClient is an HTTP client of a storage. A request fails if no byte moves for limit: while it
// is sent, until the answer comes, and while the answer is read. The time that is spent in the
// source of an upload, or in the reader of a download, does not count.
//
// It is an http.RoundTripper, and an HTTP client for the AWS SDK and Azure's.
type idleClient struct {
	send  func(*http.Request) (*http.Response, error)
	limit time.Duration // 0 is none
}

func (c idleClient) RoundTrip(r *http.Request) (*http.Response, error) { return c.Do(r) }

// Do sends a request.
func (c idleClient) Do(r *http.Request) (*http.Response, error) {
	if c.limit <= 0 {
		return c.send(r)
	}
	ctx, cancel := context.WithCancel(r.Context())
	w := &clock{limit: c.limit, cancel: cancel, idle: &idleError{r.URL.Host, c.limit}}
	w.timer = time.AfterFunc(w.limit, w.expire)
	r = r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &sentBody{r.Body, w}
		r.GetBody = watched(r.GetBody, w)
	}
	answer, err := c.send(r)
	w.answered()
	if err != nil {
		cancel()
		return nil, w.blame(err)
	}
	answer.Body = &answerBody{answer.Body, w}
	return answer, nil
}

func watched(get func() (io.ReadCloser, error), w *clock) func() (io.ReadCloser, error) {
	if get == nil {
		return nil
	}
	return func() (io.ReadCloser, error) {
		body, err := get()
		if err != nil {
			return nil, err
		}
		return &sentBody{body, w}, nil
	}
}

// clock cancels a request that stands still.
type clock struct {
	limit  time.Duration
	cancel context.CancelFunc
	idle   error
	timer  *time.Timer

	mu      sync.Mutex
	waiting bool // for the source of an upload, or for the reader of a download
	sent    bool // the answer has begun, though the request's body may still be read
	begun   time.Time
	expired bool
}

func (w *clock) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.waiting && time.Since(w.begun) >= w.limit {
		w.expired = true
		w.cancel()
	}
}

// pause stops the clock.
func (w *clock) pause() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = true
	w.timer.Stop()
}

// start starts the clock anew.
func (w *clock) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting, w.begun = false, time.Now()
	if !w.expired {
		w.timer.Reset(w.limit)
	}
}

// answered notes that the answer has begun, or that there is none.
func (w *clock) answered() {
	w.pause()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = true
}

// isSent reports whether the answer has begun.
func (w *clock) isSent() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent
}

// blame returns why a request that was cancelled failed.
func (w *clock) blame(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && err != io.EOF && w.expired {
		return w.idle
	}
	return err
}

// sentBody is the body of a request.
type sentBody struct {
	io.ReadCloser
	w *clock
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.w.pause()
	n, err := b.ReadCloser.Read(p)
	if !b.w.isSent() {
		b.w.start()
	}
	return n, err
}

// answerBody is the body of an answer.
type answerBody struct {
	io.ReadCloser
	w *clock
}

func (b *answerBody) Read(p []byte) (int, error) {
	b.w.start()
	defer b.w.pause()
	n, err := b.ReadCloser.Read(p)
	return n, b.w.blame(err)
}

func (b *answerBody) Close() error {
	b.w.pause()
	defer b.w.cancel()
	return b.ReadCloser.Close()
}

// idleError is the error of a request that made no progress. Clients of clouds don't send such a
// request again, which would take several times as long. The object is tried again instead.
type idleError struct {
	host  string
	limit time.Duration
}

func (e *idleError) Error() string {
	return fmt.Sprintf("%v: %s moved no byte for %v; --storage-timeout sets how long to wait", idle.ErrIdle, e.host, e.limit)
}

// Is makes it idle.ErrIdle.
func (e *idleError) Is(target error) bool { return target == idle.ErrIdle }

// CanceledError keeps the AWS SDK from sending the request again.
func (e *idleError) CanceledError() bool { return true }

// NonRetriable keeps Azure's client from sending the request again.
func (e *idleError) NonRetriable() {}
