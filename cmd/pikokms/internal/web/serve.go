// Package web shows an encrypted place in a browser.
package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/telemetry"
)

const DefaultAddress = "127.0.0.1:8080"

// The times of a server. A request's headers have to come soon, and a connection without a request
// is closed. An answer may take as long as it takes. At the end, answers that are under way have
// shutdownTime to end.
const (
	headerTime   = 10 * time.Second
	idleTime     = 2 * time.Minute
	shutdownTime = 10 * time.Second
)

// Server is the flags of serve.
type Server struct {
	Address string
	Remote  bool
	Hosts   []string
	Suffix  string
}

// Run serves a view until ctx ends.
func (s *Server) Run(ctx context.Context, v *View) error {
	listener, err := s.listen(ctx)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           s.guard(v),
		BaseContext:       func(net.Listener) context.Context { return telemetry.Apart(ctx) },
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	url := "http://" + listener.Addr().String() + "/"
	console.Say(slog.LevelInfo, fmt.Sprintf("serving %s at %s until it is interrupted", v.Place.Name, url), "url", url)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	if err := server.Shutdown(ending); err != nil {
		return errors.Join(fmt.Errorf("answers were cut off after %v: %w", shutdownTime, err), server.Close())
	}
	return nil
}

// listen opens the address. It refuses one that other computers reach, unless they may.
func (s *Server) listen(ctx context.Context) (net.Listener, error) {
	host, _, err := net.SplitHostPort(s.Address)
	if err != nil {
		return nil, console.Usage(fmt.Errorf("--address %q is not HOST:PORT: %w", s.Address, err))
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", s.Address)
	if err != nil {
		return nil, err
	}
	// What counts is where it listens, whatever the name of the host was.
	if at := listener.Addr().(*net.TCPAddr); !at.IP.IsLoopback() && !s.Remote {
		err := fmt.Errorf("--address %q is reached by other computers; --allow-remote lets them", s.Address)
		if host == "" {
			err = fmt.Errorf("--address %q is every address of this computer; name one, such as %s, or --allow-remote lets other computers reach it", s.Address, DefaultAddress)
		}
		return nil, console.Usage(errors.Join(err, listener.Close()))
	}
	return listener, nil
}

// guard refuses requests that no reader of a view sends, and adds headers that protect it to all
// answers.
func (s *Server) guard(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", closedPolicy)
		switch {
		case !s.servesHost(r.Host):
			// Otherwise an attacker could point the name of a web site to this server, and
			// pages of that site could read everything.
			http.Error(w, "This view does not answer for that host.", http.StatusMisdirectedRequest)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "This view can only be read.", http.StatusMethodNotAllowed)
		case !strings.HasPrefix(r.URL.Path, "/"):
			http.Error(w, "There is no such object.", http.StatusNotFound)
		default:
			inner.ServeHTTP(w, r)
		}
	})
}

// servesHost reports whether requests for a host are answered. The only names are localhost and
// those of --host: whoever owns another name can point it to this server.
func (s *Server) servesHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if address, err := netip.ParseAddr(host); err == nil {
		return s.Remote || address.IsLoopback()
	}
	return strings.EqualFold(host, "localhost") || slices.ContainsFunc(s.Hosts, func(name string) bool { return strings.EqualFold(name, host) })
}
