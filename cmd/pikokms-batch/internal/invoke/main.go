// Command invoke runs a Lambda function's binary on this machine, as Lambda would. It invokes it
// with each JSON text of its standard input, one after the other, and prints the
// answers, and at last the time that it took:
//
//	go build -o bootstrap .
//	PIKOKMS_JOB=verify PIKOKMS_KEY=awskms:///ARN go run ./internal/invoke ./bootstrap <request.json
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"piko.sh/pikokms/cmd/pikokms-batch/internal/runtimeapi"
)

func main() {
	timeout := flag.Duration("timeout", 15*time.Minute, "the function's timeout")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: invoke [-timeout DURATION] BINARY <REQUESTS")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, flag.Arg(0), *timeout); err != nil {
		fmt.Fprintln(os.Stderr, "invoke:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, binary string, timeout time.Duration) (err error) {
	sandbox, err := runtimeapi.Start(binary, os.Environ(), os.Stderr)
	if err != nil {
		return err
	}
	count, begin := 0, time.Now()
	defer func() {
		took := time.Since(begin)
		err = errors.Join(err, sandbox.Close())
		used := sandbox.Usage()
		fmt.Fprintf(os.Stderr, "%d invocations in %v, %v of processor time\n", count, took.Round(time.Millisecond), used.UserTime()+used.SystemTime())
	}()
	for requests := json.NewDecoder(os.Stdin); ; {
		var request json.RawMessage
		if err := requests.Decode(&request); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		answer, err := sandbox.Invoke(ctx, request, timeout)
		if err != nil {
			return err
		}
		fmt.Printf("%s\n", answer)
		count++
	}
}
