package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing/iotest"

	"piko.sh/pikokms/transfer"
)

// A storage's Put. The client of its service would store what was sent before the content failed.
func ExampleUpload() {
	put := func(ctx context.Context, content io.Reader) error {
		return transfer.Upload(ctx, content, send)
	}
	fmt.Println(put(context.Background(), strings.NewReader("whole")))
	broken := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("the disk is gone")))
	fmt.Println(put(context.Background(), broken))
	// Output:
	// stored "whole"
	// <nil>
	// the disk is gone
}

// send is the client of a service that takes what it gets until its context ends.
func send(ctx context.Context, content io.Reader) error {
	body, _ := io.ReadAll(content)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	fmt.Printf("stored %q\n", body)
	return nil
}
