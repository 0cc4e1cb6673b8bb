package crypto_provider_gcp_kms

import (
	"cmp"
	"fmt"

	"piko.sh/piko/wdk/crypto"

	"piko.sh/pikokms/provider/gcpkms"
)

// Config says which key to use. Credentials are Application Default Credentials, unless an option
// of NewProvider says otherwise. The fields up to MaxRetries are those of Piko's own provider.
type Config struct {
	ProjectID string // such as "my-project"; required
	Location  string // such as "europe-west1" or "global"; required
	KeyRing   string // required
	KeyName   string // of a symmetric key for ENCRYPT_DECRYPT; required

	// MaxRetries is how often a failed call is repeated that may succeed later; 0 means 3. The
	// first call does not count, so 3 means four calls at most.
	MaxRetries int

	// CheckLater makes NewProvider send no request, so that an application can start while Cloud
	// KMS is down. The key is checked by the first call that needs it.
	CheckLater bool

	// TrustedKeys are resource names of further keys to decrypt under. List those that data were
	// encrypted under before the KeyName changed, and those that another process encrypts under.
	// The configured key and those that this provider was asked to encrypt under are trusted
	// anyway. No other key is trusted, even if a ciphertext or its envelope names it, and Cloud KMS
	// is never asked about it.
	TrustedKeys []string

	// AllowPikoV2 lets DecryptStream also read the streams that Piko's own provider wrote. Such a
	// stream that was cut between two chunks reads as a shorter one, without an error, and its
	// data key looks like a string of 32 characters. Set it only while such streams remain.
	// Strings do not need it.
	AllowPikoV2 bool
}

// WithDefaults returns the configuration with its default in place of a MaxRetries of 0.
func (c Config) WithDefaults() Config {
	c.MaxRetries = cmp.Or(c.MaxRetries, 3)
	return c
}

// KeyResourceName returns the resource name of the key.
func (c Config) KeyResourceName() string {
	return fmt.Sprintf("projects/%s/locations/%s/keyRings/%s/cryptoKeys/%s", c.ProjectID, c.Location, c.KeyRing, c.KeyName)
}

// Validate reports what is missing or impossible, without asking Cloud KMS. The error holds
// crypto.ErrInvalidKey.
func (c *Config) Validate() error {
	for _, field := range []struct{ name, value string }{
		{"ProjectID", c.ProjectID}, {"Location", c.Location}, {"KeyRing", c.KeyRing}, {"KeyName", c.KeyName},
	} {
		if field.value == "" {
			return fmt.Errorf("%w: GCP KMS %s is required", crypto.ErrInvalidKey, field.name)
		}
	}
	if c.MaxRetries < 0 {
		return fmt.Errorf("%w: maxRetries cannot be negative, and is %d", crypto.ErrInvalidKey, c.MaxRetries)
	}
	return nil
}

func (c *Config) gcpkms() gcpkms.Config {
	return gcpkms.Config{
		ProjectID: c.ProjectID, Location: c.Location, KeyRing: c.KeyRing, KeyName: c.KeyName,
		MaxRetries: c.MaxRetries, TrustedKeys: c.TrustedKeys, CheckLater: c.CheckLater,
	}
}
