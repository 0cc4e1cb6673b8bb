// Command serve runs Versity's S3 gateway over a temporary folder, for another process. Its buckets
// can have versions and locks. It prints its URL on a line, and runs until standard input ends,
// which also happens when that process dies.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"

	"piko.sh/pikokms/internal/emulator"
)

const (
	region      = "eu-west-1"
	credentials = "test" // both the access key ID and the secret key
	patience    = 10 * time.Second
)

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve() (err error) {
	url := os.Stdout
	os.Stdout = os.Stderr // the gateway prints there, too
	folder, err := os.MkdirTemp("", "versitygw-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	objects, versions := filepath.Join(folder, "objects"), filepath.Join(folder, "versions")
	if err := errors.Join(os.Mkdir(objects, 0o700), os.Mkdir(versions, 0o700)); err != nil {
		return err
	}
	backend, err := posix.New(objects, meta.XattrMeta{}, posix.PosixOpts{VersioningDir: versions})
	if err != nil {
		return err
	}
	address, err := emulator.FreeAddress()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- embedgw.RunVersityGW(ctx, backend, &embedgw.Config{
			RootUserAccess: credentials, RootUserSecret: credentials, Region: region, Ports: []string{address},
			MaxConnections: 1000, MaxRequests: 1000, MultipartMaxParts: 10_000, Quiet: true, KeepAlive: true,
		})
	}()
	if err := waitUntilListening(address, ended); err != nil {
		return err
	}
	fmt.Fprintln(url, "http://"+address)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	return <-ended
}

// waitUntilListening waits until the gateway listens.
func waitUntilListening(address string, ended <-chan error) error {
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-ended:
			return fmt.Errorf("the gateway ended: %w", err)
		default:
		}
		connection, err := net.Dial("tcp", address)
		if err == nil {
			return connection.Close()
		}
		if time.Since(begin) > patience {
			return err
		}
	}
}
