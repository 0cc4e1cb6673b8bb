package vault

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/tokenhelper"

	"piko.sh/pikokms/provider"
)

// The defaults of a configuration's fields.
const (
	defaultMount      = "transit"
	defaultMaxRetries = 3
	defaultTimeout    = 10 * time.Second
)

// Config configures a provider: the key, and the way to the server.
//
// What it leaves out is found as the commands vault and bao find it: the Address in VAULT_ADDR or
// BAO_ADDR, the Namespace in VAULT_NAMESPACE or BAO_NAMESPACE, and the Token in VAULT_TOKEN,
// BAO_TOKEN or the file that their login writes. Certificates are those of VAULT_CACERT,
// VAULT_CAPATH, VAULT_CLIENT_CERT and the others that HashiCorp's client reads.
type Config struct {
	Address   string // URL of the server, such as "https://vault.example.com:8200"
	Namespace string // of the mount; empty for the root namespace
	Mount     string // path of the transit engine; default "transit"
	Key       string // name of the key; required

	Token string

	// Login returns how to log in, in place of a Token, such as by AppRole:
	//
	//	func() (api.AuthMethod, error) {
	//		return approle.NewAppRoleAuth("ROLE-ID", &approle.SecretID{FromFile: "PATH"})
	//	}
	//
	// It is called before each login, so that it can read a credential that is replaced from time
	// to time, as kubernetes.NewKubernetesAuth reads the token of a pod. The provider logs in again
	// when its token can't be renewed any more.
	Login func() (api.AuthMethod, error) `json:"-"`

	MaxRetries int           // retries of a failed attempt that may succeed later; 0 means 3
	Timeout    time.Duration // of each attempt; 0 means 10 s

	// CheckLater makes NewProvider make no call, so that a process can start while the server is
	// down or sealed. The key is checked when it is first needed.
	CheckLater bool
}

var (
	// keyName matches the names of keys that the transit engine accepts, and pathOf its paths.
	keyName = regexp.MustCompile(`^[\w](?:[\w.-]{0,253}[\w])?$`)
	pathOf  = regexp.MustCompile(`^[\w][\w.-]*(?:/[\w][\w.-]*)*$`)
)

// complete returns the configuration with its defaults and those of the environment, or what is
// wrong with it.
func (c Config) complete() (Config, error) {
	c.Address = cmp.Or(c.Address, os.Getenv("VAULT_ADDR"), os.Getenv("BAO_ADDR"), api.DefaultAddress)
	c.Namespace = strings.Trim(cmp.Or(c.Namespace, os.Getenv("VAULT_NAMESPACE"), os.Getenv("BAO_NAMESPACE")), "/")
	c.Mount = strings.Trim(cmp.Or(c.Mount, defaultMount), "/")
	c.Timeout = cmp.Or(c.Timeout, defaultTimeout)
	c.MaxRetries = cmp.Or(c.MaxRetries, defaultMaxRetries)
	if err := c.validate(); err != nil {
		return Config{}, err
	}
	if c.Login == nil && c.Token == "" {
		c.Token = cmp.Or(os.Getenv("VAULT_TOKEN"), os.Getenv("BAO_TOKEN"))
	}
	if c.Login == nil && c.Token == "" {
		stored, err := storedToken()
		if err != nil {
			return Config{}, err
		}
		c.Token = stored
	}
	return c, nil
}

// storedToken returns the token that vault login or bao login has stored.
func storedToken() (string, error) {
	helper, err := tokenhelper.NewInternalTokenHelper()
	token := ""
	if err == nil {
		token, err = helper.Get()
	}
	if err != nil {
		return "", fmt.Errorf("%w: reading the token that vault login stored: %w", provider.ErrAccessDenied, err)
	}
	if token == "" {
		return "", fmt.Errorf("%w: no token; set VAULT_TOKEN, run vault login or bao login, or configure AppRole or Kubernetes", provider.ErrAccessDenied)
	}
	return token, nil
}

func (c *Config) validate() error {
	if fault := c.fault(); fault != "" {
		return fmt.Errorf("%w: %s", provider.ErrInvalidKey, fault)
	}
	return nil
}

// fault returns what is wrong with the configuration, or nothing.
func (c *Config) fault() string {
	refuse := fmt.Sprintf
	address, err := url.Parse(c.Address)
	switch {
	case c.Key == "":
		return refuse("Key is empty; give the name of a key of the transit engine")
	case !keyName.MatchString(c.Key):
		return refuse("%q is not the name of a key of the transit engine", c.Key)
	case !pathOf.MatchString(c.Mount):
		return refuse("%q is not the path of a transit engine", c.Mount)
	case c.Namespace != "" && !pathOf.MatchString(c.Namespace):
		return refuse("%q is not the path of a namespace", c.Namespace)
	case err != nil || address.Scheme != "https" && address.Scheme != "http" || address.Host == "" || address.User != nil:
		return refuse("the address is not an http or https URL such as https://vault.example.com:8200")
	case c.Token != "" && c.Login != nil:
		return refuse("Token and Login exclude each other")
	case c.MaxRetries < 0:
		return refuse("MaxRetries is %d, it cannot be negative", c.MaxRetries)
	case c.Timeout < 0:
		return refuse("Timeout is %v, it cannot be negative", c.Timeout)
	}
	return ""
}
