package azurekeyvault

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"piko.sh/pikokms/provider"
)

// The defaults of a configuration's fields.
const (
	defaultMaxRetries = 3
	defaultTimeout    = 10 * time.Second
)

// Config configures a provider: the key, and the way to its vault.
type Config struct {
	// Vault is the name of a vault of Azure's public cloud, such as "my-vault", or the full host
	// name of any vault or managed HSM, such as "my-hsm.managedhsm.azure.net". Required.
	Vault string

	Key     string // name of the key; required
	Version string // under which to encrypt; empty for the current one

	// Credential gets tokens from Microsoft Entra ID. By default, it is a DefaultAzureCredential,
	// which takes those of the environment variables AZURE_TENANT_ID, AZURE_CLIENT_ID and
	// AZURE_CLIENT_SECRET and the like, the workload's or the machine's identity, or those of az
	// login.
	Credential azcore.TokenCredential

	MaxRetries int           // retries of a failed attempt that may succeed later; 0 means 3
	Timeout    time.Duration // of each attempt; 0 means 10 s

	// CheckLater makes NewProvider make no call, so that a process can start while the vault is
	// down. If the key can't be used, its first use then returns the error.
	CheckLater bool

	// Endpoint is the URL that is asked in place of the vault's own: "https://HOST" for a vault
	// with another name in DNS, "http://HOST:PORT" for an emulator, which is asked without TLS and
	// without credentials. Without an Endpoint, only hosts of Azure are asked.
	Endpoint string

	// Transport sends the requests, as an [http.Client] does. By default, they go by the proxy that
	// the environment names.
	Transport policy.Transporter
}

// suffix is the end of the host names of a kind of vaults.
type suffix struct {
	domain    string
	authority string // where the cloud's tokens are from; empty for that of the public cloud
}

// suffixes has those of all clouds (Azure Key Vault documentation, "DNS suffixes for object
// identifiers").
var suffixes = []suffix{
	{".vault.azure.net", ""},
	{".managedhsm.azure.net", ""},
	{".vault.azure.cn", cloud.AzureChina.ActiveDirectoryAuthorityHost},
	{".managedhsm.azure.cn", cloud.AzureChina.ActiveDirectoryAuthorityHost},
	{".vault.usgovcloudapi.net", cloud.AzureGovernment.ActiveDirectoryAuthorityHost},
	{".managedhsm.usgovcloudapi.net", cloud.AzureGovernment.ActiveDirectoryAuthorityHost},
}

var (
	// vaultName and keyName match the names that Azure accepts (Azure Key Vault documentation,
	// "Object identifiers").
	vaultName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,22}[a-z0-9]$`)
	keyName   = regexp.MustCompile(`^[a-z0-9-]{1,127}$`)
	versionID = regexp.MustCompile(`^[0-9a-f]{32}$`)
	hostName  = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,252}$`)
)

// suffixOf returns the suffix of a host name of Azure.
func suffixOf(host string) (suffix, bool) {
	for _, s := range suffixes {
		if name, ok := strings.CutSuffix(host, s.domain); ok && vaultName.MatchString(name) {
			return s, true
		}
	}
	return suffix{}, false
}

// complete returns the configuration with its defaults, a full host name and names in small
// letters, or what is wrong with it. Azure compares names without regard to case.
func (c Config) complete() (Config, error) {
	c.Vault, c.Key, c.Version = strings.ToLower(c.Vault), strings.ToLower(c.Key), strings.ToLower(c.Version)
	if vaultName.MatchString(c.Vault) {
		c.Vault += suffixes[0].domain
	}
	c.MaxRetries = cmp.Or(c.MaxRetries, defaultMaxRetries)
	c.Timeout = cmp.Or(c.Timeout, defaultTimeout)
	if fault := c.fault(); fault != "" {
		return Config{}, fmt.Errorf("%w: %s", provider.ErrInvalidKey, fault)
	}
	return c, nil
}

// fault returns what is wrong with the configuration, or nothing.
func (c *Config) fault() string {
	refuse := fmt.Sprintf
	_, ofAzure := suffixOf(c.Vault)
	endpoint, err := url.Parse(c.Endpoint)
	switch {
	case c.Vault == "":
		return refuse("Vault is empty; give the name of a vault")
	case !hostName.MatchString(c.Vault):
		return refuse("%q is neither the name of a vault nor a host name", c.Vault)
	case !ofAzure && c.Endpoint == "":
		return refuse("%q is no host name of Azure, such as NAME.vault.azure.net, NAME.managedhsm.azure.net or those of its other clouds; another host takes an endpoint", c.Vault)
	case c.Key == "":
		return refuse("Key is empty; give the name of a key")
	case !keyName.MatchString(c.Key):
		return refuse("%q is not the name of a key: 1 to 127 letters, digits and -", c.Key)
	case c.Version != "" && !versionID.MatchString(c.Version):
		return refuse("%q is not the version of a key: 32 hexadecimal digits", c.Version)
	case c.Endpoint != "" && (err != nil || endpoint.Scheme != "https" && endpoint.Scheme != "http" || endpoint.Host == "" || strings.Trim(endpoint.Path, "/") != "" || endpoint.RawQuery != "" || endpoint.User != nil):
		return refuse("the endpoint is not a URL such as https://HOST or http://HOST:PORT")
	case c.MaxRetries < 0:
		return refuse("MaxRetries is %d, it cannot be negative", c.MaxRetries)
	case c.Timeout < 0:
		return refuse("Timeout is %v, it cannot be negative", c.Timeout)
	}
	return ""
}

// id returns the key identifier of the key without a version, in small letters.
func (c *Config) id() string { return "https://" + c.Vault + "/keys/" + c.Key }

// address returns the URL that is asked.
func (c *Config) address() string {
	if c.Endpoint != "" {
		return strings.TrimSuffix(c.Endpoint, "/")
	}
	return "https://" + c.Vault
}
