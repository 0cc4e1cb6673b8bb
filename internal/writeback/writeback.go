// Package writeback stands where the command still looks for package outfile.
package writeback

import "piko.sh/pikokms/outfile"

// Writer is outfile.Writer.
type Writer = outfile.Writer

// New is outfile.NewWriter.
var New = outfile.NewWriter
