package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// slowBytes is how much of a request is sent, or of an answer is read, before the client waits.
	slowBytes  = 64 << 10
	settleTime = 5 * time.Second
)

// slow is a kind of requests whose clients are slow.
type slow struct {
	name, method, path string
	requests           int
	body               *body
}

// reportMemory measures how much the memory of a newly started server grows while many clients are
// slow.
func reportMemory(ctx context.Context, out io.Writer, o options, folder string) error {
	fmt.Fprintln(out, "| | | idle | then | each |\n|---|---|---:|---:|---:|")
	for _, kind := range []slow{
		{"1,000 slow GETs", "GET", medium(0), 1000, nil},
		{"200 slow PUTs", "PUT", medium(1), 200, bodyOf(unsigned, mediumSize)},
	} {
		if err := kind.report(ctx, out, o, filepath.Join(folder, kind.method)); err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
	}
	return nil
}

func (kind *slow) report(ctx context.Context, out io.Writer, o options, folder string) (err error) {
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	servers, stop, err := startAll(ctx, o, folder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for _, s := range servers {
		if err := s.client.put(medium(0), mediumSize); err != nil {
			return err
		}
		for range 20 { // so that the idle server already holds what it keeps after some work
			if err := s.client.get(medium(0), "", mediumSize); err != nil {
				return err
			}
		}
		idle, err := s.memory("VmRSS")
		if err != nil {
			return err
		}
		busy, err := s.whileSlow(kind)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(out, "| %s | %s | %d MB | %d MB | %d KB |\n", kind.name, s.name, idle/1e6, busy/1e6, (busy-idle)/int64(kind.requests)/1e3)
	}
	return nil
}

// whileSlow returns the memory of the server while requests wait for their client.
func (s *server) whileSlow(kind *slow) (bytes int64, err error) {
	connections, ended := make([]net.Conn, 0, kind.requests), make(chan struct{})
	defer func() {
		close(ended)
		for _, c := range connections {
			_ = c.Close()
		}
	}()
	for range kind.requests {
		request, err := s.client.request(kind.method, kind.path, kind.body, nil)
		if err != nil {
			return 0, err
		}
		request.Body = io.NopCloser(io.MultiReader(io.LimitReader(repeated(slowBytes), slowBytes), waiting{ended}))
		if kind.body == nil {
			request.Body = nil
		}
		connection, err := net.Dial("tcp", strings.TrimPrefix(s.client.url, "http://"))
		if err != nil {
			return 0, err
		}
		connections = append(connections, connection)
		go func() { _ = request.Write(connection) }() // it fails when the connection is closed
		if kind.body == nil {
			if err := connection.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				return 0, err
			}
			if _, err := io.CopyN(io.Discard, connection, slowBytes); err != nil {
				return 0, err
			}
		}
	}
	time.Sleep(settleTime)
	return s.memory("VmRSS")
}

// waiting is content that does not arrive. Its Read fails once end is closed.
type waiting struct{ end <-chan struct{} }

func (w waiting) Read([]byte) (int, error) {
	<-w.end
	return 0, io.ErrUnexpectedEOF
}
