package piko

import "errors"

// RunModeProd is the run mode of production.
const RunModeProd = "prod"

// Run is declared only: it returns an error.
func (*SSRServer) Run(string) error {
	return errors.New("piko: this is a declaration; build with Piko's own module")
}
