// Command pikokms-gateway serves S3, and stores what it is given encrypted: in a folder, or in
// another S3. Programs in any language are encrypted by their endpoint. Run pikokms-gateway --help;
// docs/GATEWAY.md shows how to set it up.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/embedgw"
	"github.com/versity/versitygw/s3api"

	"piko.sh/pikokms/cmd/pikokms-gateway/internal/encrypted"
)

func main() {
	switch err := run(context.Background(), os.Args[1:]); {
	case errors.Is(err, pflag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "pikokms-gateway:", err)
		os.Exit(1)
	}
}

// The most connections and requests at a time. Further ones are answered with status 503.
const (
	maxConnections = 4096
	maxRequests    = 4096
)

func run(ctx context.Context, args []string) (err error) {
	c, err := configure(args)
	if err != nil {
		return err
	}
	if c.version {
		fmt.Println("pikokms-gateway", version())
		return nil
	}
	logger, err := newLogger(c.logFormat)
	if err != nil {
		return err
	}
	slog.SetDefault(logger)
	finish, err := startTelemetry(ctx)
	if err != nil {
		return err
	}
	defer finish()
	for _, path := range []*string{&c.tlsCert, &c.tlsKey} { // The engine changes the working folder.
		if *path, err = absolute(*path); err != nil {
			return err
		}
	}
	allKeys, err := openKeys(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, allKeys.Close()) }()
	if err := allKeys.check(ctx); err != nil {
		return err
	}
	inner, bucket, err := openBackend(ctx, c)
	if err != nil {
		return err
	}
	allKeys.bucket = bucket
	access, secret, err := credentials(c)
	if err != nil {
		return err
	}
	s, err := newServer(allKeys)
	if err != nil {
		return err
	}
	if c.health != "" {
		if err := s.serveHealth(c.health); err != nil {
			return fmt.Errorf("--health: %w", err)
		}
	}
	scheme := "http"
	if c.tlsCert != "" {
		scheme = "https"
	}
	e := new(engine)
	if err := e.check(); err != nil {
		return err
	}
	options := []s3api.Option{e.option, s3api.WithMiddleware("/", s.handle), s3api.WithOnListen(func() {
		e.adjust()
		s.listening.Store(true)
		slog.Info("listening", "url", scheme+"://"+c.listen, "version", version())
	})}
	gateway, serving := encrypted.New(inner, encrypted.Config{Keys: allKeys.forObject, Logger: logger}), s.untilStopped(ctx, c.stopTimeout)
	go gateway.SweepAlways(serving, allKeys.bucket)
	err = embedgw.RunVersityGW(serving, s.count(gateway), &embedgw.Config{
		RootUserAccess: access, RootUserSecret: secret, Region: c.region, Ports: []string{c.listen}, CertFile: c.tlsCert, KeyFile: c.tlsKey,
		MaxConnections: maxConnections, MaxRequests: maxRequests, MultipartMaxParts: 10_000, Quiet: true, KeepAlive: true,
		// The engine's own constructor of an account prints a line to standard output.
		IAMService: auth.NewIAMServiceSingle(auth.Account{Access: access, Secret: secret, Role: auth.RoleAdmin}),
		SigHup:     hangups(), S3Options: append(options, encrypted.Options()...),
	})
	if err != nil {
		return fmt.Errorf("--listen %s: %w", c.listen, err)
	}
	slog.Info("stopped")
	return nil
}

// hangups returns a channel that receives each SIGHUP, upon which the engine reads certificates
// again.
func hangups() <-chan struct{} {
	signals, forwarded := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		for range signals {
			forwarded <- struct{}{}
		}
	}()
	return forwarded
}

// untilStopped returns a context that ends after a signal to stop: as soon as no request is under
// way, or after timeout. A second signal ends the process.
func (s *server) untilStopped(ctx context.Context, timeout time.Duration) context.Context {
	serving, end := context.WithCancel(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		signal.Reset(os.Interrupt, syscall.SIGTERM)
		s.stopping.Store(true)
		slog.Info("stopping", "requests", s.requests.Load(), "at_most", timeout.String())
		for begin := time.Now(); s.requests.Load() > 0 && time.Since(begin) < timeout; time.Sleep(20 * time.Millisecond) {
		}
		end()
	}()
	return serving
}

func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}

// credentials returns the credentials that clients need. If none are configured they are made, and
// printed for whoever started the gateway on this computer.
func credentials(c *config) (access, secret string, err error) {
	access, secret = c.accessKeyID, os.Getenv(secretVariable)
	if c.secretFile != "" {
		text, err := os.ReadFile(c.secretFile)
		if err != nil {
			return "", "", fmt.Errorf("--secret-access-key-file: %w", err)
		}
		secret = strings.TrimSpace(string(text))
	}
	if (access == "") != (secret == "") {
		return "", "", fmt.Errorf("--access-key-id takes a secret with it, in --secret-access-key-file or %s", secretVariable)
	}
	if access != "" {
		return access, secret, nil
	}
	host, _, err := net.SplitHostPort(c.listen)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", "", fmt.Errorf("other computers reach --listen %s: state the credentials that clients need, with --access-key-id", c.listen)
	}
	access, secret = rand.Text()[:20], rand.Text()+rand.Text()
	fmt.Printf("export AWS_ACCESS_KEY_ID=%s\nexport AWS_SECRET_ACCESS_KEY=%s\nexport AWS_REGION=%s\nexport AWS_ENDPOINT_URL_S3=%s\n",
		access, secret, c.region, map[bool]string{true: "https://", false: "http://"}[c.tlsCert != ""]+c.listen)
	return access, secret, nil
}

// version describes the build by the version of its module, its commit if it was built in a
// checkout, and the version of Go.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown version)"
	}
	text := info.Main.Version
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			text += " rev " + setting.Value[:min(12, len(setting.Value))]
		}
	}
	return strings.TrimSpace(text + " " + info.GoVersion)
}

func newLogger(format string) (*slog.Logger, error) {
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, nil)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, nil)), nil
	}
	return nil, fmt.Errorf("--log-format %q; known are text, json", format)
}
