// Command serve runs LocalStack for another process: it prints its URL on a line and keeps it until
// standard input ends, which it also does when that process dies.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"piko.sh/pikokms/internal/localstack"
)

func main() {
	// This process removes its container itself, so it needs no second one to do so.
	os.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
	container, err := localstack.Start(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(container.Endpoint)
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := container.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
