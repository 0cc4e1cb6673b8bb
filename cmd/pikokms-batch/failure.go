package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"piko.sh/pikokms"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/s3storage"
)

// errTryAgain is an error that another attempt may not meet.
var errTryAgain = errors.New("try again")

// transientCodes has the codes of errors that pass, beside those of throttling and of status 500
// and above. Another instance of the function has other credentials and another clock, and what
// arrived damaged is sent again (Amazon S3 API Reference, "Error responses"; AWS KMS API Reference,
// "Common Error Types"; Amazon DynamoDB Developer Guide, "Error handling with DynamoDB").
var transientCodes = map[string]bool{
	// The credentials of this instance have ended, or are not known everywhere yet.
	"ExpiredToken": true, "ExpiredTokenException": true, "TokenRefreshRequired": true, "InvalidToken": true,
	"InvalidAccessKeyId": true, "InvalidClientTokenId": true, "UnrecognizedClient": true, "UnrecognizedClientException": true,
	"InvalidSecurity": true,
	// The clock of this instance is wrong, or the request took long to arrive.
	"RequestTimeTooSkewed": true, "RequestExpired": true, "RequestInTheFuture": true,
	// The request arrived cut or damaged, or in the middle of something else.
	"BadDigest": true, "IncompleteBody": true, "InvalidPart": true, "XAmzContentChecksumMismatch": true,
	"XAmzContentSHA256Mismatch": true, "RequestAbortedException": true, "IDPCommunicationError": true, "Redirect": true, "TemporaryRedirect": true,
	"OperationAborted": true, "ConditionalRequestConflict": true, "TransactionConflictException": true,
}

// codeOf returns the code of a task's error. ctx is the task's.
func codeOf(ctx context.Context, err error) string {
	switch {
	case err == nil:
		return succeeded
	case ctx.Err() != nil, errors.Is(err, errTryAgain), errors.Is(err, pikokms.ErrChanged):
		return temporaryFailure
	case isNotImplemented(err):
		return permanentFailure
	case errors.Is(err, provider.ErrProviderUnavailable), errors.Is(err, s3storage.ErrAnswer), isTransientAWS(err), isTransientS3(err):
		return temporaryFailure
	}
	return permanentFailure
}

// isNotImplemented reports whether a service answered that it can't do what was asked. Its status
// is one of those from 500 on, but a further attempt meets it again.
func isNotImplemented(err error) bool {
	answer, ok := errors.AsType[*smithyhttp.ResponseError](err)
	return ok && (answer.HTTPStatusCode() == http.StatusNotImplemented || answer.HTTPStatusCode() == http.StatusHTTPVersionNotSupported)
}

// isTransientAWS reports whether a service of AWS answered with the code of an error that may pass.
func isTransientAWS(err error) bool {
	answer, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return false
	}
	code := answer.ErrorCode()
	// KMS and DynamoDB have the same code for a wrong signature and for one that is too old or too
	// new.
	if code == "InvalidSignatureException" || code == "SignatureDoesNotMatch" {
		text := answer.ErrorMessage()
		return strings.Contains(text, "Signature expired") || strings.Contains(text, "Signature not yet current")
	}
	return transientCodes[code]
}

// sourceError is a failure while an object was read, such as a connection that broke.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return "reading the object: " + e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

var retryable = retry.IsErrorRetryables(retry.DefaultRetryables)

// isTransientS3 reports whether an error of S3, or of the connection to it, may pass. The AWS SDK
// has already tried again.
func isTransientS3(err error) bool {
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
	// S3 passes on errors of AWS KMS for objects that S3 itself encrypts.
	if answer, ok := errors.AsType[smithy.APIError](operation); ok {
		code := strings.TrimPrefix(answer.ErrorCode(), "KMS.")
		if strings.Contains(code, "Throttl") || transientCodes[code] || transientKMSCodes[code] {
			return true
		}
	}
	return retryable.IsErrorRetryable(operation) == aws.TrueTernary
}

// transientKMSCodes has the codes of KMS's own errors that pass, as S3 passes them on.
var transientKMSCodes = map[string]bool{
	"KMSInternalException": true, "InternalException": true, "DependencyTimeoutException": true, "KeyUnavailableException": true,
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

// reasonOf returns the error of a task as the text of its result: one line of at most maxReason
// bytes, without the object's name, which the report has beside it. A command line is there whole
// or not at all, since a part of it would do something else.
func reasonOf(err error, t task) string {
	advised, ok := errors.AsType[*advice](err)
	if !ok {
		return shorten(t.unnamed(err.Error()))
	}
	text := t.unnamed(advised.err.Error())
	if whole := oneLine(text) + "; run " + advised.commandLine; len(whole) <= maxReason {
		return whole
	}
	return shorten(text + "; the function's log has the command line that does it, which is too long for this report")
}

// unnamed replaces the name of the object in a text, which a long name would fill. Errors quote
// names that can't be printed.
func (t task) unnamed(text string) string {
	key, _, err := t.keys()
	if err != nil {
		return text
	}
	bucket := "s3://" + t.bucket + "/"
	return strings.NewReplacer(bucket+key, "the object", bucket+strconv.Quote(key), "the object").Replace(text)
}

// oneLine makes a text one line of UTF-8.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "\uFFFD"), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// shorten makes a text one line of at most maxReason bytes.
func shorten(text string) string {
	text = oneLine(text)
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

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	s.read += int64(n)
	if err != nil && err != io.EOF {
		err = &sourceError{err}
	}
	return n, err
}
