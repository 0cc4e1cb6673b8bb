// Command pikokms-gateway serves S3, and stores what it is given encrypted: in a folder, or in
// another S3. Programs in any language are encrypted by their endpoint.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/backend/s3proxy"
	"github.com/versity/versitygw/embedgw"

	"piko.sh/pikokms/cmd/pikokms-gateway/internal/encrypted"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/service"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pikokms-gateway:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("pikokms-gateway", flag.ContinueOnError)
	keyFile := flags.String("k", "", "the `KEY`: local:FILE")
	folder := flags.String("folder", "", "the `DIR` whose folders are the buckets")
	upstream := flags.String("upstream", "", "the `URL` of the S3 behind")
	listen := flags.String("listen", "127.0.0.1:7070", "the `ADDRESS` to listen on")
	region := flags.String("region", "us-east-1", "the region of the gateway and of the S3 behind")
	if err := flags.Parse(args); err != nil {
		return err
	}
	inner, err := open(ctx, *folder, *upstream, *region)
	if err != nil {
		return err
	}
	file, ok := strings.CutPrefix(*keyFile, "local:")
	if !ok {
		return errors.New("-k takes local:FILE")
	}
	key, err := local.NewProvider(local.Config{KeyFile: file})
	if err != nil {
		return err
	}
	s := service.New(key, service.Config{})
	defer s.Close()
	k, err := encrypted.NewKey(message.Encrypter{Keyring: s}, message.Decrypter{Keyrings: []provider.Unwrapper{s}})
	if err != nil {
		return err
	}
	access, secret := os.Getenv("PIKOKMS_GATEWAY_ACCESS_KEY_ID"), os.Getenv("PIKOKMS_GATEWAY_SECRET_ACCESS_KEY")
	if access == "" || secret == "" {
		access, secret = rand.Text()[:20], rand.Text()+rand.Text()
		fmt.Printf("AWS_ACCESS_KEY_ID=%s\nAWS_SECRET_ACCESS_KEY=%s\n", access, secret)
	}
	gateway := encrypted.New(inner, encrypted.Config{
		Keys: func(string, string) (*encrypted.Key, error) { return k, nil }, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	fmt.Printf("AWS_ENDPOINT_URL_S3=http://%s\n", *listen)
	return embedgw.RunVersityGW(ctx, gateway, &embedgw.Config{
		RootUserAccess: access, RootUserSecret: secret, Region: *region, Ports: []string{*listen},
		MaxConnections: 4096, MaxRequests: 4096, MultipartMaxParts: 10_000, Quiet: true, KeepAlive: true,
	})
}

// open opens the backend behind.
func open(ctx context.Context, folder, upstream, region string) (backend.Backend, error) {
	switch {
	case (folder == "") == (upstream == ""):
		return nil, errors.New("give one of --folder and --upstream")
	case folder != "":
		return posix.New(folder, meta.XattrMeta{}, posix.PosixOpts{})
	}
	return s3proxy.New(ctx, os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), upstream, region, "", false, true, true, false, true, false, false)
}
