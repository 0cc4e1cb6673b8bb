package verbs

import (
	"fmt"

	"github.com/spf13/cobra"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:                   "version",
		Short:                 "Print the version, as --version does",
		Long:                  `Version prints the version of the command, its commit and that of Go.`,
		Example:               `  pikokms version`,
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(command.OutOrStdout(), "pikokms %s\n", console.Version())
			return err
		},
	}
}
