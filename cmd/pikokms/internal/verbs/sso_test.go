package verbs

import (
	"crypto/sha1"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/internal/config"
)

// TestExpiredSSOSaysHowToLogIn uses a login that has ended, and none at all, for keys and for
// buckets. The error has the command that logs in.
func TestExpiredSSOSaysHowToLogIn(t *testing.T) {
	startsManyProcesses(t)
	home := t.TempDir()
	config := filepath.Join(home, "config")
	require.NoError(t, os.WriteFile(config, []byte(`[profile old]
sso_start_url = https://example.awsapps.com/start
sso_region = eu-west-1
sso_account_id = 111122223333
sso_role_name = R
region = eu-west-1
[profile new]
sso_session = s
sso_account_id = 111122223333
sso_role_name = R
region = eu-west-1
[sso-session s]
sso_start_url = https://example.awsapps.com/start
sso_region = eu-west-1
`), 0o600))
	t.Setenv("HOME", home)
	t.Setenv("AWS_CONFIG_FILE", config)
	says := func(what string) {
		t.Helper()
		for _, profile := range []string{"old", "new"} {
			for _, arguments := range [][]string{
				{"encrypt", "-k", "awskms://alias/x?region=eu-west-1&profile=" + profile, "-o", filepath.Join(home, "out"), config},
				{"ls", "s3://bucket/?region=eu-west-1&profile=" + profile},
			} {
				_, stderr, _, err := executeWith(t, []string{"AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY="}, arguments...)
				require.Error(t, err)
				require.Contains(t, stderr, "run 'aws sso login'", "%s: %s", what, arguments)
			}
		}
	}
	says("no login")
	cache := filepath.Join(home, ".aws", "sso", "cache")
	require.NoError(t, os.MkdirAll(cache, 0o700))
	for _, name := range []string{"https://example.awsapps.com/start", "s"} {
		path := filepath.Join(cache, fmt.Sprintf("%x.json", sha1.Sum([]byte(name))))
		require.NoError(t, os.WriteFile(path, []byte(`{"accessToken":"x","expiresAt":"2020-01-01T00:00:00Z","startUrl":"https://example.awsapps.com/start","region":"eu-west-1"}`), 0o600))
	}
	says("an expired login")
}

// TestVariablesOfOthersAreKnown sets variables of pikokms-batch, which may be in the command's
// environment, too.
func TestVariablesOfOthersAreKnown(t *testing.T) {
	sources, err := filepath.Glob(filepath.Join(repository, "cmd", "pikokms-batch", "*.go"))
	require.NoError(t, err)
	found := 0
	for _, source := range sources {
		if matched, _ := filepath.Match("*_test.go", filepath.Base(source)); matched {
			continue
		}
		text, err := os.ReadFile(source)
		require.NoError(t, err)
		for _, variable := range regexp.MustCompile(`PIKOKMS_[A-Z0-9_]+`).FindAllString(string(text), -1) {
			found++
			t.Setenv(variable, "x")
		}
	}
	require.NotZero(t, found)
	t.Setenv("PIKOKMS_SERVICE_HOST", "10.0.0.1") // as Kubernetes sets them for a Service of this name
	t.Setenv("PIKOKMS_PORT", "tcp://10.0.0.1:80")
	t.Setenv("PIKOKMS_PORT_80_TCP_ADDR", "10.0.0.1")
	require.NoError(t, config.Program.CheckEnvironment(New()))
}
