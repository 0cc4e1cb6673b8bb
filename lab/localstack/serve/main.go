// Command serve runs LocalStack for another process. It prints its URL on a line, and runs until
// standard input ends, which also happens when that process dies.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"piko.sh/pikokms/lab/localstack"
)

func main() {
	// This process removes its container itself, so Ryuk, a second container that would do so, is
	// not needed.
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
