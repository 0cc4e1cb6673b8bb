package awskms_test

import (
	"crypto"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

func newHTTPServer(t *testing.T, handle http.HandlerFunc) (url string) {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	return server.URL
}

// writeAWSConfig makes the shared AWS configuration file that the AWS SDK finds, and takes away the
// credentials of the environment, which would go before those of a profile.
func writeAWSConfig(t *testing.T, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	t.Setenv("AWS_CONFIG_FILE", file)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
}

// The Region is found as every AWS tool finds it, and the profile, too.
func TestRegionsAndProfiles(t *testing.T) {
	server := kmstest.NewServer(t)
	for _, region := range []string{"eu-west-1", "eu-central-1", "us-east-1"} {
		server.CreateKey(kmstest.Key{Region: region, Alias: "alias/store"})
	}
	arn := server.CreateKey(kmstest.Key{Region: "ap-southeast-2", Alias: "alias/far"}).ARN
	const aliasARN = "arn:aws:kms:ap-southeast-2:" + kmstest.Account + ":alias/far"
	const files = "[default]\naws_access_key_id = 111122223333\naws_secret_access_key = s\n" +
		"[profile work]\nregion = us-east-1\naws_access_key_id = 444455556666\naws_secret_access_key = s\n"
	for name, c := range map[string]struct {
		config      awskms.Config
		environment map[string]string
		region      string
		account     string
		fails       string
	}{
		"configured":             {config: awskms.Config{KeyID: "alias/store", Region: "eu-west-1"}, environment: map[string]string{"AWS_REGION": "us-east-1"}, region: "eu-west-1"},
		"AWS_REGION":             {config: awskms.Config{KeyID: "alias/store"}, environment: map[string]string{"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "us-east-1"}, region: "eu-central-1"},
		"AWS_DEFAULT_REGION":     {config: awskms.Config{KeyID: "alias/store"}, environment: map[string]string{"AWS_DEFAULT_REGION": "us-east-1"}, region: "us-east-1"},
		"a key's ARN":            {config: awskms.Config{KeyID: arn}, environment: map[string]string{"AWS_REGION": "eu-central-1"}, region: "ap-southeast-2"},
		"an alias's ARN":         {config: awskms.Config{KeyID: aliasARN}, region: "ap-southeast-2"},
		"an ARN elsewhere":       {config: awskms.Config{KeyID: arn, Region: "eu-west-1"}, fails: "the configured Region is eu-west-1"},
		"profile":                {config: awskms.Config{KeyID: "alias/theirs", Profile: "work"}, region: "us-east-1", account: "444455556666"},
		"profile and AWS_REGION": {config: awskms.Config{KeyID: "alias/theirs", Profile: "work"}, environment: map[string]string{"AWS_REGION": "eu-west-1"}, fails: "alias/theirs"},
		"AWS_PROFILE":            {config: awskms.Config{KeyID: "alias/theirs"}, environment: map[string]string{"AWS_PROFILE": "work"}, region: "us-east-1", account: "444455556666"},
		"no such profile":        {config: awskms.Config{KeyID: "alias/store", Profile: "nobody", Region: "eu-west-1"}, fails: "nobody"},
		"nowhere":                {config: awskms.Config{KeyID: "alias/store"}, fails: "no Region is configured"},
	} {
		t.Run(name, func(t *testing.T) {
			writeAWSConfig(t, files)
			for variable, value := range c.environment {
				t.Setenv(variable, value)
			}
			c.config.Endpoint = server.URL
			if c.config.KeyID == "alias/theirs" && c.account != "" {
				server.CreateKey(kmstest.Key{Account: c.account, Region: c.region, Alias: "alias/theirs"})
				defer func() {
					for _, r := range server.Requests() {
						require.Equal(t, c.account, r.Account)
					}
					_, err := newClient(t, server.URL, 1, as(c.account, c.region)).DeleteAlias(t.Context(), &kms.DeleteAliasInput{AliasName: &c.config.KeyID})
					require.NoError(t, err)
				}()
			}
			server.Reset()
			_, err := awskms.NewProvider(t.Context(), c.config)
			if c.fails != "" {
				require.Error(t, err)
				require.ErrorContains(t, err, c.fails)
				requireOneSentinel(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.region, server.Requests()[0].Region)
		})
	}
}

func TestConfigsThatAreRefused(t *testing.T) {
	const arn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	client := kms.New(kms.Options{Region: "eu-west-1"})
	for says, c := range map[string]awskms.Config{
		"KeyID is empty":                       {Region: "eu-west-1"},
		"MaxRetries is -1":                     {KeyID: arn, MaxRetries: -1},
		"Timeout is -1s":                       {KeyID: arn, Timeout: -time.Second},
		"is not the ARN of a KMS key or alias": {KeyID: "arn:aws:s3:::bucket"},
		"the given Client is for Region":       {KeyID: arn, Region: "us-east-1", Client: client},
		"belong to the given Client":           {KeyID: arn, Endpoint: "http://localhost", Client: client},
		"Profile, MaxRetries and Endpoint":     {KeyID: arn, Profile: "work", Client: client},
		"no Region is configured":              {KeyID: arn, Client: kms.New(kms.Options{})},
		"11 grant tokens, KMS takes 10":        {KeyID: arn, GrantTokens: make([]string, 11)},
		"not with MD5":                         {KeyID: arn, Hash: 2},
		"TrustedKeys holds \"alias/x\"":        {KeyID: arn, TrustedKeys: []string{"alias/x"}},
		"both PublicKey and PublicKeyFile":     {KeyID: arn, PublicKey: []byte{}, PublicKeyFile: "k"},
		"KeyID must be a key ARN":              {KeyID: "alias/x", PublicKeyFile: "k"},
		"no PEM text of a PUBLIC KEY":          {KeyID: arn, PublicKey: []byte("?")},
	} {
		_, err := awskms.NewProvider(t.Context(), c)
		require.ErrorIs(t, err, provider.ErrInvalidKey, says)
		require.ErrorContains(t, err, says)
		requireOneSentinel(t, err)
	}
	for says, c := range map[string]awskms.Config{
		"needs the accounts":         {},
		"is not 12 digits":           {Accounts: []string{"1"}},
		"belong to the given Client": {Accounts: []string{"111122223333"}, Client: client, MaxRetries: 1},
		"no Region is configured":    {Accounts: []string{"111122223333"}},
	} {
		_, err := awskms.NewDiscovery(t.Context(), c)
		require.ErrorIs(t, err, provider.ErrInvalidKey, says)
		require.ErrorContains(t, err, says)
	}
}

// What a configuration without a Client does by itself: it finds credentials, and tries again.
func TestAConfigWithoutAClient(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	c := awskms.Config{KeyID: key.ARN, Endpoint: server.URL}
	_, err := awskms.NewProvider(t.Context(), c)
	require.NoError(t, err)
	for retries, calls := range map[int]int{0: 1 + 3, 1: 2} {
		c.MaxRetries = retries
		remove := server.Inject(kmstest.Fault{Do: kmstest.Error("KMSInternalException", "down")})
		server.Reset()
		_, err := awskms.NewProvider(t.Context(), c)
		require.ErrorIs(t, err, provider.ErrProviderUnavailable)
		require.Equal(t, calls, server.Calls("DescribeKey"))
		remove()
	}

	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	_, err = awskms.NewProvider(t.Context(), c)
	require.ErrorIs(t, err, provider.ErrAccessDenied)
	require.ErrorContains(t, err, "no AWS credentials")
	requireOneSentinel(t, err)

	closed := newHTTPServer(t, nil)
	d, err := awskms.NewDiscovery(t.Context(), awskms.Config{Accounts: []string{kmstest.Account}, Region: "eu-west-1", Endpoint: closed})
	require.NoError(t, err, "nothing is asked")
	require.ErrorIs(t, opened(t, sealed(t, server, key.ARN), d), provider.ErrAccessDenied)
}

// One Config serves several constructors. A field that one of them would pass over is refused.
func TestFieldsOfAnotherConstructor(t *testing.T) {
	const keyARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	accounts := []string{"111122223333"}
	construct := map[string]func(awskms.Config) error{
		"NewProvider":  func(c awskms.Config) error { _, err := awskms.NewProvider(t.Context(), c); return err },
		"NewDiscovery": func(c awskms.Config) error { _, err := awskms.NewDiscovery(t.Context(), c); return err },
	}
	for _, c := range []struct {
		constructor string
		config      awskms.Config
	}{
		{"NewProvider", awskms.Config{KeyID: keyARN, Accounts: accounts}},
		{"NewProvider", awskms.Config{KeyID: keyARN, Partition: "aws"}},
		{"NewProvider", awskms.Config{KeyID: keyARN, MultiRegion: true}},
		{"NewDiscovery", awskms.Config{Accounts: accounts, KeyID: keyARN}},
		{"NewDiscovery", awskms.Config{Accounts: accounts, TrustedKeys: []string{keyARN}}},
		{"NewDiscovery", awskms.Config{Accounts: accounts, MultiRegion: true}},
		{"NewDiscovery", awskms.Config{Accounts: accounts, CheckLater: true}},
		{"NewDiscovery", awskms.Config{Accounts: accounts, Hash: crypto.SHA1}},
	} {
		c.config.Region = "eu-west-1"
		require.ErrorIs(t, construct[c.constructor](c.config), provider.ErrInvalidKey, "%s: %v", c.constructor, c.config)
	}
}
