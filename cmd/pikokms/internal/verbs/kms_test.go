package verbs

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/local"
)

// execute runs the command, and returns what it wrote and how long it took.
func execute(t *testing.T, arguments ...string) (stdout, stderr string, took time.Duration, err error) {
	t.Helper()
	return executeWith(t, nil, arguments...)
}

// executeWith runs the command with variables in its environment.
func executeWith(t *testing.T, environment []string, arguments ...string) (stdout, stderr string, took time.Duration, err error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "pikokms", arguments...)
	command.Env = append(os.Environ(), "GORACE="+noRaceSleep, "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_EC2_METADATA_DISABLED=true")
	command.Env = append(command.Env, environment...)
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	begin := time.Now()
	err = command.Run()
	return out.String(), errs.String(), time.Since(begin), err
}

// closedPort returns the URL of an endpoint that refuses connections. A connection of the test has
// its port, so that no server is given that meanwhile.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}
	connection, err := dialer.DialContext(t.Context(), "tcp", listener.Addr().String())
	require.NoError(t, err)
	accepted, err := listener.Accept()
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = connection.Close()
		_ = accepted.Close()
	})
	return "http://" + connection.LocalAddr().String()
}

// kmsFaults has ways in which an AWS KMS can fail. Each returns the endpoint of that KMS.
var kmsFaults = map[string]func(*testing.T, *kmstest.Server, kmstest.Key) string{
	"stalls":            inject(kmstest.Stall()),
	"answers by halves": inject(kmstest.HalfOpen()),
	"drops connections": inject(kmstest.Drop()),
	"denies":            inject(kmstest.Deny()),
	"throttles":         inject(kmstest.Throttle()),
	"fails":             inject(kmstest.Error("KMSInternalException", "an internal error")),
	"is no KMS":         inject(kmstest.Body(404, "text/html", "<html>not here</html>")),
	"gives another data key": inject(kmstest.Answer(func(members map[string]any) {
		if _, ok := members["Plaintext"]; ok {
			members["Plaintext"] = make([]byte, 32)
		}
	})),
	"has the key disabled": func(_ *testing.T, s *kmstest.Server, k kmstest.Key) string {
		s.SetState(k.ARN, "Disabled")
		return s.URL
	},
	"has the key pending deletion": func(_ *testing.T, s *kmstest.Server, k kmstest.Key) string {
		s.SetState(k.ARN, "PendingDeletion")
		return s.URL
	},
	"has no such key": func(_ *testing.T, s *kmstest.Server, k kmstest.Key) string {
		s.DeleteKey(k.ARN)
		return s.URL
	},
	"refuses connections": func(t *testing.T, _ *kmstest.Server, _ kmstest.Key) string { return closedPort(t) },
}

func inject(do kmstest.Action) func(*testing.T, *kmstest.Server, kmstest.Key) string {
	return func(_ *testing.T, s *kmstest.Server, _ kmstest.Key) string {
		s.Inject(kmstest.Fault{Do: do})
		return s.URL
	}
}

// TestKeysThatCannotBeHad decrypts a message that has three keys. The first is broken in each way,
// the second refuses connections, and the third is good.
func TestKeysThatCannotBeHad(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	file := filepath.Join(t.TempDir(), "dev.key")
	require.NoError(t, local.Generate(file))
	for way, spoil := range kmsFaults {
		for _, third := range []string{"local", "awskms"} {
			t.Run(fmt.Sprintf("the first %s, the third is %s", way, third), func(t *testing.T) {
				t.Parallel()
				// An answer that must come has a minute, even on a busy machine, and one that does
				// not come is waited for in the second run alone.
				const patience = time.Minute
				timeout := 2 * time.Second
				if way == "gives another data key" {
					timeout = patience
				}
				var keyrings []provider.Wrapper
				var servers []*kmstest.Server
				var keys []kmstest.Key
				for range 3 {
					server := kmstest.NewServer(t)
					key := server.CreateKey(kmstest.Key{})
					p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Region: key.Region, Endpoint: server.URL})
					require.NoError(t, err)
					servers, keys, keyrings = append(servers, server), append(keys, key), append(keyrings, p)
				}
				if third == "local" {
					p, err := local.NewProvider(local.Config{KeyFile: file})
					require.NoError(t, err)
					keyrings[2] = p
				}
				encrypter := message.Encrypter{Keyring: keyrings[0], Recipients: keyrings[1:]}
				encrypted, err := encrypter.Encrypt(t.Context(), []byte("hello\n"), nil)
				require.NoError(t, err)
				in := filepath.Join(t.TempDir(), "enc")
				require.NoError(t, os.WriteFile(in, encrypted, 0o600))

				endpoints := []string{spoil(t, servers[0], keys[0]), closedPort(t), servers[2].URL}
				arguments := []string{"decrypt", "--kms-timeout", patience.String()}
				for i, key := range keys {
					arguments = append(arguments, "-k", "awskms:///"+key.ARN+"?endpoint="+endpoints[i])
				}
				if third == "local" {
					arguments[len(arguments)-1] = "local:" + file
				}
				stdout, stderr, took, err := execute(t, append(arguments, in)...)
				require.NoError(t, err, stderr)
				require.Equal(t, "hello\n", stdout)
				t.Logf("decrypted after %v", took.Round(time.Millisecond))

				// Without the third, the command says of both what is wrong with them.
				arguments[2] = timeout.String()
				stdout, stderr, _, err = execute(t, append(arguments[:len(arguments)-2], in)...)
				require.Error(t, err)
				require.Empty(t, stdout)
				require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
				require.Contains(t, stderr, keys[1].ARN)
				if way == "gives another data key" {
					require.Contains(t, stderr, "does not fit: message header failed authentication")
				} else {
					require.Contains(t, stderr, keys[0].ARN)
				}
				t.Log(stderr)
			})
		}
	}
}

// TestTwoOfThreeKeysNeverAnswer decrypts a message whose first two keys are of services that stall,
// or that stall and refuse, within the time that one of them is given.
func TestTwoOfThreeKeysNeverAnswer(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	server := kmstest.NewServer(t)
	var keyrings []provider.Wrapper
	var ks []string
	for range 3 {
		key := server.CreateKey(kmstest.Key{})
		p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Region: key.Region, Endpoint: server.URL})
		require.NoError(t, err)
		keyrings, ks = append(keyrings, p), append(ks, key.ARN)
	}
	encrypter := message.Encrypter{Keyring: keyrings[0], Recipients: keyrings[1:]}
	encrypted, err := encrypter.Encrypt(t.Context(), []byte("hello\n"), nil)
	require.NoError(t, err)
	in := filepath.Join(t.TempDir(), "enc")
	require.NoError(t, os.WriteFile(in, encrypted, 0o600))
	for _, key := range ks[:2] {
		server.Inject(kmstest.Fault{Key: key, Do: kmstest.Stall()})
	}
	for name, second := range map[string]string{"both stall": server.URL, "one refuses": closedPort(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			arguments := []string{"decrypt"}
			for i, endpoint := range []string{server.URL, second, server.URL} {
				arguments = append(arguments, "-k", "awskms:///"+ks[i]+"?endpoint="+endpoint)
			}
			stdout, stderr, took, err := execute(t, append(arguments, in)...)
			require.NoError(t, err, stderr)
			require.Equal(t, "hello\n", stdout)
			require.Less(t, took, keys.DefaultTimeout)
			t.Logf("decrypted after %v", took.Round(time.Millisecond))
		})
	}
}

// TestOneOfTwoKeysIsEnough asks no second key service about what the first one opens.
func TestOneOfTwoKeysIsEnough(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	server := kmstest.NewServer(t)
	var keyrings []provider.Wrapper
	arguments := []string{"decrypt"}
	for range 2 {
		key := server.CreateKey(kmstest.Key{})
		p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Region: key.Region, Endpoint: server.URL})
		require.NoError(t, err)
		keyrings = append(keyrings, p)
		arguments = append(arguments, "-k", "awskms:///"+key.ARN+"?endpoint="+server.URL)
	}
	encrypter := message.Encrypter{Keyring: keyrings[0], Recipients: keyrings[1:]}
	encrypted, err := encrypter.Encrypt(t.Context(), []byte("hello\n"), nil)
	require.NoError(t, err)
	in := filepath.Join(t.TempDir(), "enc")
	require.NoError(t, os.WriteFile(in, encrypted, 0o600))
	server.Reset()
	stdout, stderr, _, err := execute(t, append(arguments, in)...)
	require.NoError(t, err, stderr)
	require.Equal(t, "hello\n", stdout)
	require.Equal(t, 1, server.Calls(""))
}

// TestAKeyServiceThatDoesNotAnswerIsAskedOnce decrypts a message with three data keys that the KEY
// may open. The command waits for one answer, and not for three.
func TestAKeyServiceThatDoesNotAnswerIsAskedOnce(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	server := kmstest.NewServer(t)
	var keyrings []provider.Wrapper
	for range 3 {
		key := server.CreateKey(kmstest.Key{})
		p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Region: key.Region, Endpoint: server.URL})
		require.NoError(t, err)
		keyrings = append(keyrings, p)
	}
	encrypter := message.Encrypter{Keyring: keyrings[0], Recipients: keyrings[1:]}
	encrypted, err := encrypter.Encrypt(t.Context(), []byte("hello\n"), nil)
	require.NoError(t, err)
	in := filepath.Join(t.TempDir(), "enc")
	require.NoError(t, os.WriteFile(in, encrypted, 0o600))
	server.Inject(kmstest.Fault{Do: kmstest.Stall()})
	server.Reset()
	discovery := "awskms-discovery:?accounts=" + kmstest.Account + "&region=" + kmstest.Region + "&endpoint=" + server.URL
	_, stderr, _, err := execute(t, "decrypt", "--kms-timeout", "5s", "-k", discovery, in)
	require.Error(t, err)
	require.Equal(t, 1, server.Calls(""))
	require.Equal(t, 1, strings.Count(stderr, "no answer within 5s"), stderr)
}
