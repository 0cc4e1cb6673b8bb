package kmstest

import (
	"fmt"
	"net/http"
)

// failure is an error that KMS answers with.
type failure struct{ code, message string }

func fail(code, format string, a ...any) *failure {
	return &failure{code, fmt.Sprintf(format, a...)}
}

// statuses holds the HTTP statuses of the codes that are not 400 (KMS API Reference, the errors of
// each operation and "Common errors").
var statuses = map[string]int{
	"DependencyTimeoutException": http.StatusInternalServerError,
	"KMSInternalException":       http.StatusInternalServerError,
	"KeyUnavailableException":    http.StatusInternalServerError,
	"InternalFailure":            http.StatusInternalServerError,
	"ServiceUnavailable":         http.StatusServiceUnavailable,
}

func (f *failure) status() int {
	if status, ok := statuses[f.code]; ok {
		return status
	}
	return http.StatusBadRequest
}

func invalid(format string, a ...any) *failure {
	return fail("ValidationException", format, a...)
}

// tooLong is the error for a request's member over its limit.
func tooLong(member string, limit int) *failure {
	return invalid("1 validation error detected: Value at '%s' failed to satisfy constraint: Member must have length less than or equal to %d", member, limit)
}

func missing(member string) *failure {
	return invalid("1 validation error detected: Value at '%s' failed to satisfy constraint: Member must not be null", member)
}
