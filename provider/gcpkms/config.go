package gcpkms

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	kms "cloud.google.com/go/kms/apiv1"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"piko.sh/pikokms/provider"
)

// The defaults of a configuration's fields.
const (
	defaultMaxRetries = 3
	defaultTimeout    = 10 * time.Second
)

// Config configures a provider: the key, and the way to Cloud KMS. The fields up to MaxRetries are
// those of Piko's own provider.
//
// Credentials are Application Default Credentials: those that the environment variable
// GOOGLE_APPLICATION_CREDENTIALS names, those of gcloud auth application-default login, or the
// service account of the machine.
type Config struct {
	ProjectID string // such as "my-project"; required
	Location  string // such as "europe-west1" or "global"; required
	KeyRing   string // required
	KeyName   string // of a symmetric key for ENCRYPT_DECRYPT; required

	MaxRetries int           // retries of a failed attempt that may succeed later; 0 means 3
	Timeout    time.Duration // of each attempt; 0 means 10 s

	// CheckLater makes NewProvider make no call, so that a process can start while Cloud KMS is
	// down. If the key can't be used, its first use then returns the error.
	CheckLater bool

	TrustedKeys []string // resource names of further keys to decrypt under

	// Endpoint is the URL of another endpoint: "https://HOST" for Private Service Connect or a
	// region's own endpoint, "http://HOST:PORT" for an emulator, which is asked without TLS and
	// without credentials.
	Endpoint string
}

// resourceName returns the resource name of the key.
func (c *Config) resourceName() string {
	return fmt.Sprintf("projects/%s/locations/%s/keyRings/%s/cryptoKeys/%s", c.ProjectID, c.Location, c.KeyRing, c.KeyName)
}

// cryptoKey matches the resource name of a CryptoKey. A project's ID may begin with the name of a
// domain and a colon (Cloud KMS REST reference, projects.locations.keyRings.cryptoKeys; Resource
// Manager, "project ID").
var cryptoKey = regexp.MustCompile(`^projects/([a-zA-Z0-9.:-]{1,100})/locations/([a-zA-Z0-9-]{1,63})/keyRings/([a-zA-Z0-9_-]{1,63})/cryptoKeys/([a-zA-Z0-9_-]{1,63})$`)

// versionOf matches the end of the resource name of a key's version.
var versionOf = regexp.MustCompile(`/cryptoKeyVersions/[0-9]{1,19}$`)

func isKeyName(text string) bool { return cryptoKey.MatchString(text) }

// withoutVersion returns the resource name of a key, given that name or that of one of the key's
// versions.
func withoutVersion(name string) string {
	if at := versionOf.FindStringIndex(name); at != nil {
		return name[:at[0]]
	}
	return name
}

func (c *Config) validate() error {
	for _, field := range []struct{ name, value, example string }{
		{"ProjectID", c.ProjectID, "my-project"}, {"Location", c.Location, "europe-west1"},
		{"KeyRing", c.KeyRing, "my-ring"}, {"KeyName", c.KeyName, "my-key"},
	} {
		if field.value == "" {
			return fmt.Errorf("%w: %s is empty; give one such as %q", provider.ErrInvalidKey, field.name, field.example)
		}
	}
	if !isKeyName(c.resourceName()) {
		return fmt.Errorf("%w: %q is not the resource name of a key", provider.ErrInvalidKey, c.resourceName())
	}
	for _, name := range c.TrustedKeys {
		if !isKeyName(name) {
			return fmt.Errorf("%w: TrustedKeys holds %q, which is not the resource name of a key", provider.ErrInvalidKey, name)
		}
	}
	switch {
	case c.MaxRetries < 0:
		return fmt.Errorf("%w: MaxRetries is %d, it cannot be negative", provider.ErrInvalidKey, c.MaxRetries)
	case c.Timeout < 0:
		return fmt.Errorf("%w: Timeout is %v, it cannot be negative", provider.ErrInvalidKey, c.Timeout)
	}
	_, err := c.endpoint()
	return err
}

// endpoint returns the parsed Endpoint, or nil if there is none.
func (c *Config) endpoint() (*url.URL, error) {
	if c.Endpoint == "" {
		return nil, nil
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("%w: the endpoint %q is not a URL such as https://HOST or http://HOST:PORT", provider.ErrInvalidKey, c.Endpoint)
	}
	return u, nil
}

// newClient makes a client. It makes no call of Cloud KMS.
func (c *Config) newClient(ctx context.Context, options []option.ClientOption) (*kms.KeyManagementClient, error) {
	endpoint, err := c.endpoint()
	if err != nil {
		return nil, err
	}
	var own []option.ClientOption
	if endpoint != nil {
		host := endpoint.Host
		if endpoint.Port() == "" {
			host += map[string]string{"https": ":443", "http": ":80"}[endpoint.Scheme]
		}
		own = append(own, option.WithEndpoint(host))
	}
	if endpoint != nil && endpoint.Scheme == "http" {
		own = append(own, option.WithoutAuthentication(), option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	}
	client, err := kms.NewKeyManagementClient(context.WithoutCancel(ctx), append(own, options...)...)
	if err != nil {
		return nil, fmt.Errorf("%w: no client for Cloud KMS; set credentials with gcloud auth application-default login or GOOGLE_APPLICATION_CREDENTIALS: %w", provider.ErrAccessDenied, err)
	}
	return client, nil
}
