package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/backend/s3proxy"
	"github.com/versity/versitygw/embedgw"

	"piko.sh/pikokms/provider/local"
)

// asPlain is an environment variable. If it is set, this program serves as the engine without
// encryption, at the address that is its value. The engine needs a process of its own, since it
// changes the working folder.
const asPlain = "PIKOKMS_SPEED_PLAIN_ON"

// asProxy is an environment variable with the URL of an S3. If it is set, the engine serves that in
// place of a folder.
const asProxy = "PIKOKMS_SPEED_IN_FRONT_OF"

// certificate and certificateKey are environment variables with the paths of a certificate and its
// key. Without them, the engine serves HTTP.
const certificate, certificateKey = "PIKOKMS_SPEED_CERTIFICATE", "PIKOKMS_SPEED_CERTIFICATE_KEY"

const access, secret, region = "speed", "speed-secret", "us-east-1"

// servePlain serves a folder, or another S3, with the options that the gateway sets.
func servePlain(folder, address string) error {
	var served backend.Backend
	var err error
	if url := os.Getenv(asProxy); url != "" {
		// As in the gateway, content is sent without a signature and without a checksum.
		const anonymous, withoutSignature, withoutChecksum, skipVerify, pathStyle, debug, gcs = false, true, true, false, true, false, false
		served, err = s3proxy.New(context.Background(), access, secret, url, region, "", anonymous, withoutSignature, withoutChecksum, skipVerify, pathStyle, debug, gcs)
	} else {
		served, err = posix.New(folder, meta.XattrMeta{}, posix.PosixOpts{NewDirPerm: 0o700, NewFilePerm: 0o600, CopyObjectThreshold: 5 << 30})
	}
	if err != nil {
		return err
	}
	return embedgw.RunVersityGW(context.Background(), served, &embedgw.Config{
		RootUserAccess: access, RootUserSecret: secret, Region: region, Ports: []string{address},
		MaxConnections: 4096, MaxRequests: 4096, MultipartMaxParts: 10_000, Quiet: true, KeepAlive: true,
		CertFile: os.Getenv(certificate), KeyFile: os.Getenv(certificateKey),
	})
}

// server is a process that serves S3.
type server struct {
	name    string
	process *exec.Cmd
	client  *client
}

// startAll starts the servers that are compared, the base first, and makes their buckets.
func startAll(ctx context.Context, o options, folder string) (_ []*server, stop func() error, err error) {
	var all, upstreams []*server
	stopAll := func() (err error) {
		for _, s := range slices.Concat(all, upstreams) {
			err = errors.Join(err, s.stop())
		}
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stopAll())
		}
	}()
	key := filepath.Join(folder, "key")
	if err := local.Generate(key); err != nil {
		return nil, nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	var cert, certKey string
	if o.tls {
		cert, certKey = filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key")
		if err := makeCertificate(cert, certKey); err != nil {
			return nil, nil, err
		}
	}
	plain := func(data, address string, environment ...string) *exec.Cmd {
		process := exec.Command(self, data)
		process.Env = append(append(os.Environ(), asPlain+"="+address), environment...)
		return process
	}
	// upstream starts another S3 over a folder. Each server has its own.
	upstream := func(data string) (url string, err error) {
		unencrypted := o
		unencrypted.tls = false
		s, err := startServer(ctx, unencrypted, "S3 behind", func(address string) (*exec.Cmd, error) { return plain(data, address), nil })
		if err != nil {
			return "", err
		}
		upstreams = append(upstreams, s)
		return s.client.url, nil
	}
	commands := []struct {
		name string
		make func(data, address string) (*exec.Cmd, error)
	}{
		{"plain", func(data, address string) (*exec.Cmd, error) {
			process := plain(data, address, certificate+"="+cert, certificateKey+"="+certKey)
			if o.upstream {
				url, err := upstream(data)
				if err != nil {
					return nil, err
				}
				process.Env = append(process.Env, asProxy+"="+url, "AWS_CA_BUNDLE=") // the engine's HTTP client takes none
			}
			return process, nil
		}},
		{"pikokms-gateway", func(data, address string) (*exec.Cmd, error) {
			process := exec.Command(o.gateway, "-k", "local:"+key, "--listen", address)
			process.Env = append(os.Environ(), "PIKOKMS_GATEWAY_ACCESS_KEY_ID="+access, "PIKOKMS_GATEWAY_SECRET_ACCESS_KEY="+secret)
			if o.upstream {
				url, err := upstream(data)
				if err != nil {
					return nil, err
				}
				process.Args = append(process.Args, "--upstream", "s3://?region="+region+"&endpoint="+url)
				process.Env = append(process.Env, "AWS_ACCESS_KEY_ID="+access, "AWS_SECRET_ACCESS_KEY="+secret)
			} else {
				process.Args = append(process.Args, "--folder", data)
			}
			if o.tls {
				process.Args = append(process.Args, "--tls-cert", cert, "--tls-key", certKey)
			}
			return process, nil
		}},
		{"rclone crypt", func(data, address string) (*exec.Cmd, error) {
			process, err := rcloneCommand(o.rclone, data, address)
			if err == nil && o.tls {
				process.Args = append(process.Args, "--cert", cert, "--key", certKey)
			}
			return process, err
		}},
	}
	for _, c := range commands {
		if c.name == "rclone crypt" && o.rclone == "" {
			continue
		}
		data := filepath.Join(folder, strings.ReplaceAll(c.name, " ", "-"))
		if err := os.Mkdir(data, 0o700); err != nil {
			return nil, nil, err
		}
		s, err := startServer(ctx, o, c.name, func(address string) (*exec.Cmd, error) { return c.make(data, address) })
		if err != nil {
			return nil, nil, err
		}
		all = append(all, s)
		if err := s.client.do("PUT", "/"+bucket, nil, nil); err != nil {
			return nil, nil, err
		}
	}
	return all, stopAll, nil
}

// rcloneCommand returns rclone's S3 server over a folder that it encrypts.
func rcloneCommand(rclone, data, address string) (*exec.Cmd, error) {
	obscured, err := exec.Command(rclone, "obscure", "a-password-for-speed").Output()
	if err != nil {
		return nil, fmt.Errorf("rclone obscure: %w", err)
	}
	process := exec.Command(rclone, "serve", "s3", "--addr", address, "--auth-key", access+","+secret, "--config", os.DevNull, "encrypted:")
	process.Env = append(os.Environ(), "RCLONE_CONFIG_ENCRYPTED_TYPE=crypt", "RCLONE_CONFIG_ENCRYPTED_REMOTE="+data,
		"RCLONE_CONFIG_ENCRYPTED_PASSWORD="+strings.TrimSpace(string(obscured)))
	return process, nil
}

func startServer(ctx context.Context, o options, name string, command func(address string) (*exec.Cmd, error)) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return nil, err
	}
	process, err := command(address)
	if err != nil {
		return nil, err
	}
	process.Stderr = os.Stderr
	if err := process.Start(); err != nil {
		return nil, err
	}
	scheme := "http://"
	if o.tls {
		scheme = "https://"
	}
	s := &server{name, process, newClient(ctx, scheme+address, o.payload)}
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			return s, connection.Close()
		}
		if time.Since(begin) > time.Minute {
			return nil, errors.Join(fmt.Errorf("%s does not listen: %w", name, err), s.stop())
		}
	}
}

// makeCertificate writes a certificate and its key, in PEM.
func makeCertificate(cert, key string) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return err
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), 0o600),
	)
}

func (s *server) stop() error {
	s.client.http.CloseIdleConnections()
	if err := s.process.Process.Kill(); err != nil {
		return err
	}
	_ = s.process.Wait() // the error is that the process was killed
	return nil
}

// cpu returns the processor time that the server's threads have taken. Threads that have ended are
// not counted, but those of a Go program hardly ever end.
func (s *server) cpu() (all time.Duration, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.process.Process.Pid))
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		spent, _, _ := strings.Cut(string(text), " ") // in nanoseconds, kernel documentation "Scheduler Statistics"
		n, err := strconv.ParseInt(spent, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		all += time.Duration(n)
	}
	return all, nil
}

// memory returns a field of /proc/PID/status that is in KiB, converted to bytes.
func (s *server) memory(field string) (int64, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", s.process.Process.Pid))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), field+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, errors.Join(fmt.Errorf("/proc/PID/status has no %s", field), lines.Err())
}
