package branchkey

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/local"
)

// Config configures a provider or a Store: a table of branch keys, what wraps the branch keys, and
// which of them a provider uses. A Store has no use for the fields from BranchKeyID on.
type Config struct {
	// Table is the name or ARN of a table in Amazon DynamoDB, of the form that AWS's libraries use.
	// It is in the Region of KMS, and reached with the Profile, MaxRetries and Timeout of KMS.
	// Credentials are found as AWS's tools find them.
	Table         string
	TableEndpoint string           // URL of another DynamoDB endpoint: a VPC endpoint, an emulator
	TableClient   *dynamodb.Client // used in place of TableEndpoint and of what KMS has for the table

	// File is the path of a table in a file, in place of Table: for development, tests and single
	// machines. Several processes can use the file at once. Store.CreateTable makes it.
	File string

	// LogicalName is bound to every key of the table. A table that is restored from a backup under
	// another name keeps its logical name. The default is the name of the table, or of the file
	// without its folder.
	LogicalName string

	// KMS names the keys of AWS KMS that wrap the branch keys, and the way to them.
	KMS awskms.Config

	// Masters are AES keys that wrap the branch keys in place of AWS KMS, for development and
	// tests. The first one wraps new branch keys. All unwrap, so each needs another name. Their Key
	// is copied, and the caller may zero it.
	Masters []local.Config

	BranchKeyID string // of all messages, or of those for which the Supplier returns nothing

	Supplier Supplier `json:"-"` // picks branch keys by encryption context

	// TTL is how long a branch key is used after it was fetched. It is required for a provider. In
	// that time, the process may encrypt under a version that is no longer active, and decrypt after
	// KMS's permission was withdrawn or the branch key was disabled or destroyed. It also works while
	// KMS or the table is down. AWS suggests an hour.
	TTL time.Duration

	Entries int // branch keys and versions in the cache; 0 means 1,000

	// CheckLater makes NewProvider make no call, so that a process can start while KMS is down. The
	// branch key is fetched when it is first needed.
	CheckLater bool
}

// openTable returns the table of a configuration, without asking it.
func (c *Config) openTable(ctx context.Context) (table, error) {
	inDynamoDB := c.Table != "" || c.TableEndpoint != "" || c.TableClient != nil
	switch {
	case len(c.Masters) > 0 && (c.KMS.KeyID != "" || len(c.KMS.Accounts) > 0):
		return nil, fmt.Errorf("%w: both KMS and Masters are given to wrap branch keys", provider.ErrInvalidKey)
	case len(c.Masters) == 0 && c.KMS.KeyID == "" && len(c.KMS.Accounts) == 0:
		return nil, fmt.Errorf("%w: a key store needs KMS or Masters, which wrap its branch keys", provider.ErrInvalidKey)
	case c.File != "" && inDynamoDB:
		return nil, fmt.Errorf("%w: both a File and a Table are given", provider.ErrInvalidKey)
	case c.File != "":
		return newFile(c.File), nil
	}
	return newDynamoDB(ctx, c)
}

// validate checks the fields that only a provider uses.
func (c *Config) validate() error {
	switch {
	case c.BranchKeyID == "" && c.Supplier == nil:
		return fmt.Errorf("%w: give a branch key ID, or a Supplier that picks one", provider.ErrInvalidKey)
	case c.TTL <= 0:
		return fmt.Errorf("%w: TTL is %v; give the time for which a branch key may be used, such as an hour", provider.ErrInvalidKey, c.TTL)
	case c.Entries < 0:
		return fmt.Errorf("%w: Entries is %d, it cannot be negative", provider.ErrInvalidKey, c.Entries)
	}
	return nil
}

// shownConfig is a Config as prints, logs and encodings show it. Its fields conceal what is secret
// in them.
type shownConfig Config

func (c Config) shown() shownConfig {
	if c.TableEndpoint != "" {
		c.TableEndpoint = provider.RedactURL(c.TableEndpoint)
	}
	return shownConfig(c)
}

// Format implements fmt.Formatter. It shows no secret, not even for a verb that package fmt finds
// wrong, for which it does not call the methods of fields.
func (c Config) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), c.shown())
}

// MarshalJSON implements json.Marshaler. It shows no secret.
func (c Config) MarshalJSON() ([]byte, error) { return json.Marshal(c.shown()) }
