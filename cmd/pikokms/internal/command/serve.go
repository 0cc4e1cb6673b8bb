package command

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

	"github.com/spf13/cobra"

	"piko.sh/pikokms/service"
)

const defaultAddress = "127.0.0.1:8080"

// The times of a server. A request's headers have to come soon, and a connection without a request
// is closed. An answer may take as long as it takes. At the end, answers that are under way have
// endTime to end.
const (
	headerTime = 10 * time.Second
	idleTime   = 2 * time.Minute
	endTime    = 10 * time.Second
)

// serving is the flags of serve.
type serving struct {
	address string
	remote  bool
	hosts   []string
	suffix  string
}

func serveCommand() *cobra.Command {
	var o options
	var s serving
	command := &cobra.Command{
		Use:   "serve [-k KEY]... [-c NAME=VALUE]... [--address HOST:PORT] PLACE",
		Short: "Show an encrypted folder or bucket in a browser",
		Long: `Serve shows PLACE, a folder, a bucket or one object, over HTTP until it is
interrupted: a page for each folder, which plays videos and sounds and shows
pictures, and under their names the objects, decrypted, and in ranges, as players
and downloaders ask for them. Nothing can be changed. Nothing decrypted is stored,
and browsers are told not to. Each object's data key is asked for once, and kept
for 5 minutes.

It listens on this computer alone, and whoever can log in there can read all of it.
Any other address needs --allow-remote: put a proxy before it that knows who may
read, and encrypts what it sends. A request for another host than localhost or an
IP address is refused, as those of web pages are that reach for a local server,
unless --host names the host.

Ranges are checked frame by frame, as by cat --range. What has none, because it is
signed or compressed, is sent from its beginning. An answer that breaks off is not
the whole object. What is not encrypted is listed, and not shown.`,
		Example: `  pikokms serve -k local:dev.key photos
  pikokms serve -k 'awskms://alias/backups?region=eu-west-1' --suffix .enc \
      --address 127.0.0.1:9000 's3://bucket/backups/?region=eu-west-1'`,
		Args:                  cobra.ExactArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, arguments []string) error {
			ctx := command.Context()
			r, err := o.reading()
			if err != nil {
				return err
			}
			defer closeAll(r.keys)
			if err := openAny(ctx, r.keys); err != nil {
				return err
			}
			for _, k := range r.keys {
				k.cacheDataKeys(service.CacheLimits{})
			}
			p, err := openPlace(ctx, arguments[0])
			if err != nil {
				return err
			}
			defer p.Close()
			if p.isStandardInput() {
				return usage(errors.New("standard input cannot be served; name a file, a folder or a bucket"))
			}
			endsByItself.Store(true)
			return s.run(ctx, &view{place: p, registry: r.registry, pairs: r.pairs, limits: o.limits, suffix: s.suffix})
		},
	}
	o.addKeys(command, keyToDecrypt, pairToDecrypt)
	flags := command.Flags()
	flags.StringVar(&s.address, "address", defaultAddress, "the `HOST:PORT` to listen on; port 0 is any that is free")
	flags.BoolVar(&s.remote, "allow-remote", false, "listen on an address that other computers reach")
	flags.StringArrayVar(&s.hosts, "host", nil, "also answer requests for this host `NAME`; may be repeated")
	flags.StringVar(&s.suffix, "suffix", "", "show only objects whose names end in this `SUFFIX`, and without it")
	o.addReading(command)
	addStorageTimeout(command)
	return command
}

// run serves a view until ctx ends.
func (s *serving) run(ctx context.Context, v *view) error {
	listener, err := s.listen(ctx)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           s.guard(v),
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	url := "http://" + listener.Addr().String() + "/"
	say(slog.LevelInfo, fmt.Sprintf("serving %s at %s until it is interrupted", v.place.name, url), "url", url)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	if err := server.Shutdown(ending); err != nil {
		return errors.Join(fmt.Errorf("answers were cut off after %v: %w", endTime, err), server.Close())
	}
	return nil
}

// listen opens the address. It refuses one that other computers reach, unless they may.
func (s *serving) listen(ctx context.Context) (net.Listener, error) {
	host, _, err := net.SplitHostPort(s.address)
	if err != nil {
		return nil, usage(fmt.Errorf("--address %q is not HOST:PORT: %w", s.address, err))
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", s.address)
	if err != nil {
		return nil, err
	}
	// What counts is where it listens, whatever the name of the host was.
	if at := listener.Addr().(*net.TCPAddr); !at.IP.IsLoopback() && !s.remote {
		err := fmt.Errorf("--address %q is reached by other computers; --allow-remote lets them", s.address)
		if host == "" {
			err = fmt.Errorf("--address %q is every address of this computer; name one, such as %s, or --allow-remote lets other computers reach it", s.address, defaultAddress)
		}
		return nil, usage(errors.Join(err, listener.Close()))
	}
	return listener, nil
}

// guard refuses what no reader of a view sends.
func (s *serving) guard(inner http.Handler) http.Handler {
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
		case !s.answers(r.Host):
			// A page of another site, whose name an attacker has lead here, would else read all.
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

// answers tells whether a request for this host is answered. Names are not, but for localhost and
// those that were given: whoever owns a name can have it lead to this server.
func (s *serving) answers(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if address, err := netip.ParseAddr(host); err == nil {
		return s.remote || address.IsLoopback()
	}
	return strings.EqualFold(host, "localhost") || slices.ContainsFunc(s.hosts, func(name string) bool { return strings.EqualFold(name, host) })
}
