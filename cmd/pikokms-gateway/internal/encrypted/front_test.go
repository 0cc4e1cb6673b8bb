package encrypted

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/recover"
	"github.com/stretchr/testify/require"
)

// TestClientsAreKeptWaiting reads, byte by byte, the answer for an upload that takes longer than
// the client waits.
func TestClientsAreKeptWaiting(t *testing.T) {
	app := fiber.New()
	app.Use(recover.New())
	app.Use(patience{5 * time.Millisecond, 5 * time.Millisecond}.handle)
	wait := make(chan struct{})
	answer := func(c fiber.Ctx) error {
		<-wait
		return c.Status(http.StatusOK).Send(append(append([]byte{}, xmlDeclaration...), "<Done/>"...))
	}
	app.Post("/b/slow", answer)
	app.Post("/b/fails", func(c fiber.Ctx) error {
		<-wait
		return c.Status(http.StatusBadRequest).Send(append(append([]byte{}, xmlDeclaration...), "<Error/>"...))
	})
	app.Post("/b/panics", func(fiber.Ctx) error { panic("the engine has a fault") })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = app.Listener(listener, fiber.ListenConfig{DisableStartupMessage: true}) }()
	defer func() { require.NoError(t, app.Shutdown()) }()

	for path, end := range map[string]string{"/b/slow?uploadId=x": "<Done/>", "/b/fails?uploadId=x": "<Error/>"} {
		connection, err := net.Dial("tcp", listener.Addr().String())
		require.NoError(t, err)
		_, err = fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", path)
		require.NoError(t, err)
		response, err := http.ReadResponse(bufio.NewReader(connection), nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, response.StatusCode)
		start := make([]byte, len(xmlDeclaration)+3)
		_, err = io.ReadFull(response.Body, start)
		require.NoError(t, err)
		require.Equal(t, string(xmlDeclaration)+"   ", string(start))
		wait <- struct{}{}
		rest, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.Equal(t, end, strings.TrimSpace(string(rest)))
		_, err = connection.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF, "the connection is closed")
		require.NoError(t, connection.Close())
	}

	connection, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	_, err = fmt.Fprint(connection, "POST /b/panics?uploadId=x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	require.NoError(t, err)
	answered, err := io.ReadAll(connection)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(answered), "HTTP/1.1 "), "%s", answered)
	require.NoError(t, connection.Close())
	for begin := time.Now(); strings.Contains(stacks(), "patience"); time.Sleep(time.Millisecond) {
		require.Less(t, time.Since(begin), 10*time.Second, "a goroutine is left that writes to the connection")
	}

	close(wait)
	response, err := http.Post("http://"+listener.Addr().String()+"/b/fails?uploadId=x", "", nil)
	require.NoError(t, err)
	require.Contains(t, []int{http.StatusBadRequest, http.StatusOK}, response.StatusCode)
	require.NoError(t, response.Body.Close())
}

// stacks returns the stacks of all goroutines.
func stacks() string {
	all := make([]byte, 1<<20)
	return string(all[:runtime.Stack(all, true)])
}
