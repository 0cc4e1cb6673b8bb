package crypto_provider_aws_kms

import (
	"cmp"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"go.opentelemetry.io/otel"

	"piko.sh/piko/wdk/crypto"

	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/service"
)

// Config says which key to use and how to reach KMS. Credentials come from the AWS SDK's standard
// chain. KeyID, Region, MaxRetries and EnableMetrics are the fields of Piko's own provider, and
// Validate and WithDefaults its methods.
type Config struct {
	KeyID  string // key ID, key ARN, alias name ("alias/…") or alias ARN; required
	Region string // of the key; required

	EndpointURL string // another KMS endpoint: a VPC endpoint, LocalStack

	// UseStaticCredentials signs with the credentials "test" and "test", which LocalStack takes,
	// instead of the standard chain's. It has no effect without an EndpointURL.
	UseStaticCredentials bool

	// MaxRetries is how often a failed call is repeated that may succeed later; 0 means 3. The
	// first call does not count, so 3 means four calls at most. With 3, Piko's own provider makes
	// three calls.
	MaxRetries int

	// EnableMetrics records the calls of KMS, the bytes encrypted and the circuit breaker's state.
	// They go to OpenTelemetry's global meter provider, as Piko's own metrics do. Package service
	// lists them.
	EnableMetrics bool

	// CheckLater makes NewProvider send no request, so an application can start while KMS is down.
	// The key is checked by the first call that needs it.
	CheckLater bool

	// TrustedKeys are ARNs of further keys to decrypt under, in the same Region. List those that
	// data were encrypted under before the KeyID changed, and those that another process encrypts
	// under. The key of KeyID and those that this provider was asked to encrypt under are trusted
	// anyway. No other key is trusted, even if a ciphertext or its envelope names it, and KMS is
	// never asked about it.
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

// Validate reports what is missing or impossible, without asking KMS. The error holds
// crypto.ErrInvalidKey.
func (c *Config) Validate() error {
	switch {
	case c.KeyID == "":
		return fmt.Errorf("%w: AWS KMS KeyID is required: a key ID, key ARN, alias name or alias ARN", crypto.ErrInvalidKey)
	case c.Region == "":
		return fmt.Errorf("%w: AWS KMS Region is required: the key's, such as eu-west-1", crypto.ErrInvalidKey)
	case c.MaxRetries < 0:
		return fmt.Errorf("%w: maxRetries cannot be negative, and is %d", crypto.ErrInvalidKey, c.MaxRetries)
	}
	return nil
}

func (c *Config) awskms() awskms.Config {
	config := awskms.Config{KeyID: c.KeyID, TrustedKeys: c.TrustedKeys, CheckLater: c.CheckLater}
	if c.UseStaticCredentials && c.EndpointURL != "" {
		config.Client = kms.New(kms.Options{
			Region:           c.Region,
			BaseEndpoint:     &c.EndpointURL,
			Credentials:      credentials.NewStaticCredentialsProvider("test", "test", ""),
			RetryMaxAttempts: 1 + c.WithDefaults().MaxRetries,
		})
		return config
	}
	config.Region, config.MaxRetries, config.Endpoint = c.Region, c.MaxRetries, c.EndpointURL
	return config
}

func (c *Config) telemetry() service.Telemetry {
	if !c.EnableMetrics {
		return service.Telemetry{}
	}
	return service.Telemetry{MeterProvider: otel.GetMeterProvider()}
}
