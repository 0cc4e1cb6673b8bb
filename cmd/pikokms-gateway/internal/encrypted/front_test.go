package encrypted

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/stretchr/testify/require"
)

// TestClientsAreKeptWaiting reads the answer for an upload that takes longer than the client's
// patience, as its bytes are.
func TestClientsAreKeptWaiting(t *testing.T) {
	app := fiber.New()
	app.Use(patience{5 * time.Millisecond, 5 * time.Millisecond}.handle)
	wait := make(chan struct{})
	answer := func(c fiber.Ctx) error {
		<-wait
		return c.Status(http.StatusOK).Send(append(append([]byte{}, declaration...), "<Done/>"...))
	}
	app.Post("/b/slow", answer)
	app.Post("/b/fails", func(c fiber.Ctx) error {
		<-wait
		return c.Status(http.StatusBadRequest).Send(append(append([]byte{}, declaration...), "<Error/>"...))
	})
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
		start := make([]byte, len(declaration)+3)
		_, err = io.ReadFull(response.Body, start)
		require.NoError(t, err)
		require.Equal(t, string(declaration)+"   ", string(start))
		wait <- struct{}{}
		rest, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.Equal(t, end, strings.TrimSpace(string(rest)))
		_, err = connection.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF, "the connection is closed")
		require.NoError(t, connection.Close())
	}

	close(wait)
	response, err := http.Post("http://"+listener.Addr().String()+"/b/fails?uploadId=x", "", nil)
	require.NoError(t, err)
	require.Contains(t, []int{http.StatusBadRequest, http.StatusOK}, response.StatusCode)
	require.NoError(t, response.Body.Close())
}
