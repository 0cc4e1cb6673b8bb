// Package transfer helps implementations of [pikokms.Storage] to move objects to and from a service
// that can fail half-way. An upload whose content fails must store nothing: [Upload]. A request
// whose answer was lost may have been carried out: [Remember]. A download that broke must not be
// read on: [NewReader]. A [RangeObject] is open for random access by requests for ranges.
package transfer

import (
	"io"

	"piko.sh/pikokms/internal/checked"
)

// NewReader returns a reader of r that does not read r again once r has failed or ended. For
// example, the body of an HTTP request fails once when its client hangs up, and then returns io.EOF
// as if it were complete. Impossible counts of r are errors, and so are a hundred reads in a row
// without a byte or an error. The reader is for one goroutine.
func NewReader(r io.Reader) io.Reader { return &checked.Reader{Source: r} }
