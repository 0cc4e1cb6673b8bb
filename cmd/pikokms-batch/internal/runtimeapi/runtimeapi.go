// Package runtimeapi stands in for AWS Lambda. It runs a function's binary, and invokes it by the
// protocol of functions that bring their own runtime (AWS Lambda Developer Guide, "Using the Lambda
// runtime API for custom runtimes").
package runtimeapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"
)

const (
	version     = "/2018-06-01/runtime/"
	functionARN = "arn:aws:lambda:eu-west-1:111122223333:function:pikokms-batch"

	// maxAnswer is Lambda's limit in bytes of the answer to a synchronous invocation.
	maxAnswer = 6 << 20
)

// Sandbox is one instance of a function. It works on one invocation at a time.
type Sandbox struct {
	server  *http.Server
	process *exec.Cmd
	events  chan *invocation
	exited  chan struct{} // closed when the process has exited
	err     error         // how it exited

	mu      sync.Mutex
	current *invocation
}

type invocation struct {
	id      string
	payload []byte
	timeout time.Duration
	answer  chan answer
}

type answer struct {
	body []byte
	err  error
}

// Start starts a function's binary, with the environment that Lambda gives it and variables such as
// "NAME=VALUE". What the function logs goes to log.
func Start(binary string, variables []string, log io.Writer) (*Sandbox, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Sandbox{events: make(chan *invocation), exited: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+version+"invocation/next", s.next)
	mux.HandleFunc("POST "+version+"invocation/{id}/response", s.respond)
	mux.HandleFunc("POST "+version+"invocation/{id}/error", s.respond)
	mux.HandleFunc("POST "+version+"init/error", s.initFailed)
	s.server = &http.Server{Handler: mux}
	go func() { _ = s.server.Serve(listener) }() // ends with Close

	s.process = exec.Command(binary)
	s.process.Env = append([]string{
		"AWS_LAMBDA_RUNTIME_API=" + listener.Addr().String(), "AWS_LAMBDA_FUNCTION_NAME=pikokms-batch",
		"AWS_LAMBDA_FUNCTION_VERSION=$LATEST", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=1024", "_HANDLER=bootstrap", "PATH=" + os.Getenv("PATH"),
	}, variables...)
	s.process.Stdout, s.process.Stderr = log, log
	if err := s.process.Start(); err != nil {
		return nil, errors.Join(err, s.server.Close())
	}
	go func() {
		s.err = s.process.Wait()
		close(s.exited)
	}()
	return s, nil
}

// Usage returns what the function used, once Close has returned.
func (s *Sandbox) Usage() *os.ProcessState { return s.process.ProcessState }

// initTimeout is how long a function may take to start, which is no part of an invocation.
const initTimeout = time.Minute

// Invoke invokes the function and returns its answer. A function that takes longer than timeout is
// killed, as Lambda does.
func (s *Sandbox) Invoke(ctx context.Context, payload []byte, timeout time.Duration) ([]byte, error) {
	in := &invocation{id: rand.Text(), payload: payload, timeout: timeout, answer: make(chan answer, 1)}
	timer := time.NewTimer(initTimeout)
	defer timer.Stop()
	select {
	case s.events <- in:
		timer.Reset(timeout)
	case <-s.exited:
		return nil, fmt.Errorf("the function exited: %w", errors.Join(s.err, errExited))
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
		return nil, errors.New("the function asks for no invocation")
	}
	select {
	case a := <-in.answer:
		return a.body, a.err
	case <-s.exited:
		return nil, fmt.Errorf("the function exited: %w", errors.Join(s.err, errExited))
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
		_ = s.process.Process.Kill()
		return nil, fmt.Errorf("task timed out after %v", timeout)
	}
}

var errExited = errors.New("its process has ended")

// Close ends the function. It returns when its process has ended.
func (s *Sandbox) Close() error {
	_ = s.process.Process.Kill() // it may have ended
	<-s.exited
	return s.server.Close()
}

// next waits for an invocation and hands it out.
func (s *Sandbox) next(w http.ResponseWriter, r *http.Request) {
	select {
	case in := <-s.events:
		s.mu.Lock()
		s.current = in
		s.mu.Unlock()
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Lambda-Runtime-Aws-Request-Id", in.id)
		h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(time.Now().Add(in.timeout).UnixMilli(), 10))
		h.Set("Lambda-Runtime-Invoked-Function-Arn", functionARN)
		h.Set("Lambda-Runtime-Trace-Id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0")
		_, _ = w.Write(in.payload)
	case <-r.Context().Done():
	}
}

// respond takes a function's answer, or its error.
func (s *Sandbox) respond(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	in := s.current
	if in == nil || in.id != r.PathValue("id") {
		s.mu.Unlock()
		http.Error(w, `{"errorType":"InvalidRequestID"}`, http.StatusBadRequest)
		return
	}
	s.current = nil
	s.mu.Unlock()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAnswer))
	if err == nil && r.URL.Path == version+"invocation/"+in.id+"/error" {
		err = fmt.Errorf("the function failed: %s", body)
	}
	in.answer <- answer{body, err}
	w.WriteHeader(http.StatusAccepted)
}

// initFailed takes the error of a function that can't start.
func (s *Sandbox) initFailed(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAnswer))
	fmt.Fprintf(s.process.Stderr, "init failed: %s\n", body)
	w.WriteHeader(http.StatusAccepted)
}
