// Package emulator starts other programs that are or emulate key services, for tests. Each runs in
// a process of its own that ends when its standard input ends, so it does not outlive the tests.
package emulator

import (
	"bufio"
	"cmp"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Region is the Region that tests use with LocalStack. Credentials is both the access key ID and
// the secret key, since LocalStack accepts any.
const (
	Region      = "eu-west-1"
	Credentials = "test"
)

// LocalStack returns the URL of LocalStack. It is the running one that PIKOKMS_LOCALSTACK_URL
// names, or one in a container, which the tests of a process share and which ends with that
// process. Without a Docker engine the test is skipped, or fails if PIKOKMS_REQUIRE_DOCKER is 1.
func LocalStack(t testing.TB) string {
	t.Helper()
	if url := os.Getenv("PIKOKMS_LOCALSTACK_URL"); url != "" {
		return url
	}
	if testing.Short() {
		t.Skip("skipped: LocalStack is not for short mode")
	}
	if os.Getenv("PIKOKMS_REQUIRE_DOCKER") != "1" && exec.Command("docker", "info").Run() != nil {
		t.Skip("skipped: LocalStack needs a Docker engine, and none answers (PIKOKMS_REQUIRE_DOCKER=1 makes this a failure)")
	}
	shared, err := localStack()
	if err != nil {
		t.Fatal(err)
	}
	return shared.url
}

var localStack = sync.OnceValues(func() (*emulator, error) { return startServer("localstack") })

// VersityGW returns the URL of an S3 server over a temporary folder, with versions and locks and
// without encryption. The tests of a process share it, and it ends with that process. Its Region
// and login are those of LocalStack. Since it takes a while to build, the test is skipped in short
// mode.
func VersityGW(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped: Versity's gateway is not for short mode")
	}
	shared, err := versityGW()
	if err != nil {
		t.Fatal(err)
	}
	return shared.url
}

var versityGW = sync.OnceValues(func() (*emulator, error) { return startServer("versitygw") })

// startServer starts the command serve of a package of the module lab.
func startServer(name string) (*emulator, error) {
	dir, err := findAbove(filepath.Join("lab", name))
	if err != nil {
		return nil, err
	}
	command := exec.Command("go", "run", "./serve")
	command.Dir = dir
	// It is not built with the race detector, even if the tests are.
	command.Env = append(os.Environ(), "GOFLAGS=")
	// The command's standard input ends with this process, and so the command ends, too.
	return start(command)
}

// emulator is a program that runs until its standard input is closed: by stop, or by the garbage
// collector once nothing refers to the emulator any more.
type emulator struct {
	url  string
	stop func()
}

// motoServer prints moto's URL and serves until standard input ends.
const motoServer = `
import os, sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("http://%s:%d" % server.get_host_and_port(), flush=True)
sys.stdin.read()
os._exit(0)
`

// Moto returns the URL of an empty moto server that no other test uses at the same time. A server
// takes a while to start, so later tests of the process reuse it. The test is skipped in short
// mode, so that what runs then does not depend on a machine's Python, and if neither python3 nor
// the Python that PIKOKMS_PYTHON names has moto's server.
func Moto(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped: moto is not for short mode")
	}
	if !hasMoto() {
		t.Skipf("skipped: %s has no moto[server] (PIKOKMS_PYTHON names a Python that has it)", python())
	}
	moto, err := takeMoto()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := resetMoto(moto.url); err != nil {
			moto.stop()
			t.Error(err)
			return
		}
		idleMoto.Lock()
		defer idleMoto.Unlock()
		idleMoto.servers = append(idleMoto.servers, moto)
	})
	return moto.url
}

func python() string { return cmp.Or(os.Getenv("PIKOKMS_PYTHON"), "python3") }

var hasMoto = sync.OnceValue(func() bool { return exec.Command(python(), "-c", "import moto.server").Run() == nil })

// idleMoto has the moto servers that no test uses.
var idleMoto struct {
	sync.Mutex
	servers []*emulator
}

// takeMoto returns an idle moto server, or starts one.
func takeMoto() (*emulator, error) {
	idleMoto.Lock()
	defer idleMoto.Unlock()
	if n := len(idleMoto.servers); n > 0 {
		moto := idleMoto.servers[n-1]
		idleMoto.servers = idleMoto.servers[:n-1]
		return moto, nil
	}
	return start(exec.Command(python(), "-c", motoServer))
}

// resetMoto empties a moto server. It leaves no connection, for tests that look for goroutines.
func resetMoto(url string) error {
	request, err := http.NewRequest(http.MethodPost, url+"/moto-api/reset", nil)
	if err != nil {
		return err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("emulator: %w", err)
	}
	_ = response.Body.Close() // nothing of it is read
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("emulator: moto answers the reset with %s", response.Status)
	}
	return nil
}

// findAbove returns the path of a folder in the working folder or in one of its parents.
func findAbove(folder string) (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		path := filepath.Join(dir, folder)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			err = fmt.Errorf("emulator: no folder %s in the working folder or above", folder)
		}
		dir = parent
	}
	return "", err
}

// start starts a command. The first line that it prints is its URL.
func start(command *exec.Cmd) (*emulator, error) {
	stderr, err := os.CreateTemp("", "emulator-") // a file needs no goroutine
	if err != nil {
		return nil, err
	}
	defer os.Remove(stderr.Name())
	defer stderr.Close()
	command.Stderr = stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	stop := func() {
		_ = stdin.Close()
		_ = command.Wait()
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		stop()
		output, _ := os.ReadFile(stderr.Name())
		lines := strings.Split(strings.TrimSpace(string(output)), "\n")
		return nil, fmt.Errorf("%s did not start: %s", command, lines[max(0, len(lines)-3):])
	}
	return &emulator{strings.TrimSpace(line), stop}, nil
}
