package message

import (
	"context"
	"io"
	"maps"
	"slices"

	"piko.sh/pikokms/header"
)

// Rewrap returns the message of src, which d can decrypt, as a new message of e. The new message is
// under e's keyrings and in its suite. It has the same encryption context, and requires the same
// pairs. So Rewrap moves messages to other keys and recipients, and old suites to the current
// format. With d.AllowPikoV2 it also moves Piko's old streams. The pairs of stated are as for
// d.NewReader.
//
// The content is decrypted, verified and encrypted anew under a new data key, in memory and one
// frame at a time. It is not enough to write a new header before the old body: the header's tag
// would be made a second time with the same key and IV, and anyone who saw both could forge tags
// (NIST SP 800-38D, section 8). The source is complete when Read returns io.EOF, and only then.
// After an error, what was read is an incomplete message that every reader refuses.
//
// The errors are those of d.NewReader and e.NewReader. Read returns those of a DecryptReader, too.
func Rewrap(ctx context.Context, src io.Reader, d *Decrypter, e *Encrypter, stated map[string]string) (*EncryptReader, error) {
	plaintext, err := d.NewReader(ctx, src, stated)
	if err != nil {
		return nil, err
	}
	encryptionContext := maps.Clone(plaintext.EncryptionContext())
	delete(encryptionContext, header.PublicKeyName)
	renewed := *e
	renewed.Required = slices.Clone(e.Required)
	for name := range stated {
		if _, stored := plaintext.Header().EncryptionContext[name]; !stored {
			renewed.Required = append(renewed.Required, name)
		}
	}
	return renewed.NewReader(ctx, plaintext, encryptionContext)
}
