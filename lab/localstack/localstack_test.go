package localstack

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// running is a server that answers as a LocalStack which is ready.
func running(t *testing.T) *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/_localstack/health", func(w http.ResponseWriter, _ *http.Request) {})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

func TestOneLocalStackServesAWholeRun(t *testing.T) {
	server := running(t)
	t.Setenv(Variable, server.URL)
	for range 2 {
		c, err := Start(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if c.Endpoint != server.URL {
			t.Errorf("the endpoint is %s, not %s", c.Endpoint, server.URL)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := Start(ctx); err == nil || !strings.Contains(err.Error(), Variable) {
		t.Errorf("the error of one that is gone is %v", err)
	}
}

func TestPortsAtAnotherAddressThanTheGuess(t *testing.T) {
	server, err := url.Parse(running(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ guess, want string }{
		// An address that no machine has (RFC 5737), or one of this machine where nothing listens.
		{net.JoinHostPort("192.0.2.1", server.Port()), "set TESTCONTAINERS_HOST_OVERRIDE to 127.0.0.1"},
		{net.JoinHostPort("127.0.0.2", server.Port()), "set TESTCONTAINERS_HOST_OVERRIDE to 127.0.0.1"},
		{"127.0.0.1:1", "set TESTCONTAINERS_HOST_OVERRIDE to the address"},
	} {
		err := reach(t.Context(), "http://"+c.guess, time.Second)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("the error is %v, without %q", err, c.want)
		}
	}
	if err := reach(t.Context(), server.String(), time.Second); err != nil {
		t.Error(err)
	}
}

func TestEngineAtAnotherAddress(t *testing.T) {
	if testing.Short() || os.Getenv("PIKOKMS_REQUIRE_DOCKER") != "1" && exec.Command("docker", "info").Run() != nil {
		t.Skip("skipped: it needs a Docker engine")
	}
	t.Setenv(Variable, "")
	t.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
	t.Setenv("TESTCONTAINERS_HOST_OVERRIDE", "192.0.2.1")
	c, err := Start(t.Context())
	if err == nil {
		_ = c.Close()
		t.Fatal("it was reached at an address that no machine has")
	}
	if !strings.Contains(err.Error(), "set TESTCONTAINERS_HOST_OVERRIDE to ") {
		t.Error(err)
	}
}
