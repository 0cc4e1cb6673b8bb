// Package kept stands where the command still looks for package outfile.
package kept

import "piko.sh/pikokms/outfile"

// Owner and ModTime are those of package outfile.
var (
	Owner   = outfile.KeepOwner
	ModTime = outfile.KeepModTime
)
