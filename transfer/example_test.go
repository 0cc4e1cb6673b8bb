package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing/iotest"
	"time"

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

// The Open of a storage that answers requests for ranges, as HTTP servers do.
func ExampleNewRangeObject() {
	const stored = "0123456789"
	fetch := func(offset, length int64) (io.ReadCloser, error) { // a GET with a header Range
		return io.NopCloser(strings.NewReader(stored[offset : offset+length])), nil
	}
	object := transfer.NewRangeObject(int64(len(stored)), time.Now(), []byte(stored[:4]), fetch)
	defer object.Close()
	part := make([]byte, 3)
	_, err := object.ReadAt(part, 5)
	fmt.Println(string(part), err)
	// Output: 567 <nil>
}

// A request fails although the service has carried it out. What it stored shows that.
func ExampleRemember() {
	sent, isSent := transfer.Remember(strings.NewReader("content"))
	stored, err := io.ReadAll(sent) // the service reads it, and its answer is lost
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(isSent(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(stored)), nil }))
	fmt.Println(isSent(func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("another's")), nil }))
	// Output:
	// true
	// false
}
