package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"piko.sh/pikokms"
	"piko.sh/pikokms/provider"
)

// errLater is an error that another attempt may not meet.
var errLater = errors.New("try again")

// codeOf returns the code of a task's error. ctx is the task's.
func codeOf(ctx context.Context, err error) string {
	switch {
	case err == nil:
		return succeeded
	case ctx.Err() != nil, errors.Is(err, errLater), errors.Is(err, pikokms.ErrChanged), errors.Is(err, provider.ErrProviderUnavailable), isS3Trouble(err):
		return temporaryFailure
	}
	return permanentFailure
}

// sourceError is a failure while an object was read, such as a connection that broke.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return "reading the object: " + e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

var retryable = retry.IsErrorRetryables(retry.DefaultRetryables)

// isS3Trouble reports whether an error is one of S3, or of the way to it, that may pass. The AWS
// SDK has tried again already.
func isS3Trouble(err error) bool {
	if _, broken := errors.AsType[*sourceError](err); broken {
		return true
	}
	operation, ok := errors.AsType[*smithy.OperationError](err)
	if !ok || operation.Service() != "S3" {
		return false
	}
	if _, unsent := errors.AsType[*smithyhttp.RequestSendError](operation); unsent {
		return true
	}
	if answer, ok := errors.AsType[*smithyhttp.ResponseError](operation); ok {
		switch status := answer.HTTPStatusCode(); {
		case status >= http.StatusInternalServerError, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
			return true
		}
	}
	// S3 hands on that AWS KMS throttles it, in objects that S3 itself encrypts.
	if answer, ok := errors.AsType[smithy.APIError](operation); ok && strings.Contains(answer.ErrorCode(), "Throttl") {
		return true
	}
	return retryable.IsErrorRetryable(operation) == aws.TrueTernary
}

// explain adds to an error what to do about it.
func explain(err error) error {
	answer, _ := errors.AsType[smithy.APIError](err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no such object any more: %w", err)
	case answer != nil && answer.ErrorCode() == "InvalidObjectState":
		return fmt.Errorf("it is archived; restore it first: %w", err)
	}
	return err
}

// maxReason bounds the text of a result in bytes. AWS states no bound. The report has a line for
// each task, with a key of up to 1,024 bytes.
const maxReason = 1024

// shorten makes a text one line of at most maxReason bytes.
func shorten(text string) string {
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "\uFFFD"), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	if len(text) <= maxReason {
		return text
	}
	const cut = "…"
	end := maxReason - len(cut)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + cut
}

// source is a stored object while it is read.
type source struct {
	io.Reader
	read int64
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	s.read += int64(n)
	if err != nil && err != io.EOF {
		err = &sourceError{err}
	}
	return n, err
}
