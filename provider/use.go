package provider

import (
	"fmt"
	"strings"

	"piko.sh/pikokms/header"
)

// The pair of the encryption context that keeps the uses of a key apart. A key service binds a
// wrapped data key to the pair, so what was made for one use is refused for another.
//
// A value that AWS KMS itself encrypts has no such pair, since Piko wrote such values without one.
// Its encryption context cannot state the pair either. So a value is never taken for a data key of
// an object or of a string.
const (
	PairUse   = "piko-use"
	UseObject = "object" // a stored object of package pikokms
	UseString = "string" // a string that package message encrypted under a data key
	UseStream = "stream" // a stream that Piko's crypto service writes by a drop-in provider
)

// reservedPrefix begins the encryption context keys that pikokms reserves for itself.
const reservedPrefix = "piko-"

// CheckStated refuses an encryption context of a string that states a pair whose name begins with
// "piko-", which pikokms reserves. It is called before a string is encrypted or decrypted. The
// error holds header.ErrInvalidContext.
func CheckStated(encryptionContext map[string]string) error {
	for name := range encryptionContext {
		if strings.HasPrefix(name, reservedPrefix) {
			return fmt.Errorf("%w: key %q begins with %q, which pikokms reserves; choose another name", header.ErrInvalidContext, name, reservedPrefix)
		}
	}
	return nil
}
