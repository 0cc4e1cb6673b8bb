package storage

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
)

var (
	permanent = []error{
		context.Canceled, context.DeadlineExceeded,
		os.ErrNotExist, os.ErrPermission, io.EOF, io.ErrUnexpectedEOF,
	}
	transient = []syscall.Errno{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ETIMEDOUT,
		syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ECONNABORTED,
	}
	transientWords = []string{
		"connection refused", "connection reset", "connection timeout", "timeout", "temporary failure",
		"too many requests", "rate limit", "throttle", "500", "502", "503", "504",
	}
)

// retryable decides as Piko does: by what an error is, and then by what its text says.
func retryable(err error) bool {
	if err == nil || slices.ContainsFunc(permanent, func(p error) bool { return errors.Is(err, p) }) {
		return false
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return true
	}
	var number syscall.Errno
	if errors.As(err, &number) && slices.Contains(transient, number) {
		return true
	}
	text := strings.ToLower(err.Error())
	return slices.ContainsFunc(transientWords, func(w string) bool { return strings.Contains(text, w) })
}
