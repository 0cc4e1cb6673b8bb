package message

import (
	"context"
	"io"
	"maps"
	"slices"

	"piko.sh/pikokms/header"
)

// Rewrap returns the message that src holds, which d can decrypt, as a new message of e: under its
// keyrings, in its suite, with the same encryption context, of which the same pairs are required.
// So it moves messages to other keys and recipients, and those of old suites, and with
// d.AllowPikoV2 Piko's old streams, to the current format. stated is as for d.NewReader.
//
// The content is decrypted, verified and encrypted anew under a new data key, in memory and one
// frame at a time. A new header before the old body would not do: the header's tag would be made a
// second time with the same key and IV, and whoever saw both could then forge tags (NIST SP
// 800-38D, section 8). The source is whole when Read returns io.EOF, and only then; after an
// error, what was read is no whole message, and every reader refuses it.
//
// The errors are those of d.NewReader and e.NewReader, and Read's are those of the reader that
// d.NewReader gives.
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
