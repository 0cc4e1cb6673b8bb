package main

import (
	"bytes"
	"encoding/xml"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gofiber/fiber/v3"
	"github.com/stretchr/testify/require"
)

// TestPanicsAreLogged makes the engine panic. The log shows where, and the client does not learn
// why.
func TestPanicsAreLogged(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	s, err := newServer(new(keys))
	require.NoError(t, err)
	app := fiber.New()
	app.Use(s.handle)
	app.Get("/data/a", func(fiber.Ctx) error { panic("a fault of the engine") })
	answer, err := app.Test(httptest.NewRequest("GET", "/data/a?X-Amz-Signature=of-somebody", nil))
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusInternalServerError, answer.StatusCode)
	var text bytes.Buffer
	_, err = text.ReadFrom(answer.Body)
	require.NoError(t, err)
	var failed struct{ Code string }
	require.NoError(t, xml.Unmarshal(text.Bytes(), &failed))
	require.Equal(t, "InternalError", failed.Code)
	require.NotContains(t, text.String(), "fault")
	for _, want := range []string{"level=ERROR", "method=GET", "path=/data/a", "a fault of the engine", "panic_test.go"} {
		require.Contains(t, log.String(), want)
	}
	require.NotContains(t, log.String(), "of-somebody")
	require.Zero(t, s.requests.Load())
}
