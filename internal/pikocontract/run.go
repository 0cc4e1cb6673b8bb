package piko

import "errors"

// The run modes. RunModeDevInterpreted interprets the application's pages, and the packages of the
// application that they import.
const (
	RunModeProd           = "prod"
	RunModeDev            = "dev"
	RunModeDevInterpreted = "dev-i"
)

// Run is declared only: it returns an error.
func (*SSRServer) Run(string) error {
	return errors.New("piko: this is a declaration; build with Piko's own module")
}
