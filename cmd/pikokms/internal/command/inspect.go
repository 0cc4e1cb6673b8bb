package command

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
)

// report is what inspect finds. Its JSON form is stable.
type report struct {
	Version           int               `json:"version"`
	Suite             string            `json:"suite"`
	SuiteID           string            `json:"suite_id"`
	KeyCommitment     bool              `json:"key_commitment"`
	Signed            bool              `json:"signed"`
	MessageID         string            `json:"message_id"`
	EncryptionContext map[string]string `json:"encryption_context"`
	EncryptedDataKeys []reportKey       `json:"encrypted_data_keys"`
	ContentType       string            `json:"content_type"`
	FrameLength       uint32            `json:"frame_length"` // 0 if the message is unframed
	HeaderSize        int               `json:"header_size"`
	MessageSize       int64             `json:"message_size"`
	// PlaintextSize is the size before decompression. It is null if the message is signed, or if no
	// message has MessageSize.
	PlaintextSize *int64   `json:"plaintext_size"`
	Transformers  []string `json:"transformers"`
}

type reportKey struct {
	ProviderID     string `json:"provider_id"`
	Key            string `json:"key"`
	KeyVersion     string `json:"key_version,omitempty"` // if the data key states one
	CiphertextSize int    `json:"ciphertext_size"`
}

// name returns the name of the key, with its version if that is known.
func (k reportKey) name() string {
	if k.KeyVersion == "" {
		return printable(k.Key)
	}
	return printable(k.Key) + " version " + printable(k.KeyVersion)
}

func inspectCommand() *cobra.Command {
	var asJSON bool
	var e each
	command := &cobra.Command{
		Use:   "inspect [--json] [--include GLOB]... [--exclude GLOB]... [IN]...",
		Short: "Show what a message, or each of a folder or a bucket, says of itself",
		Long: `Inspect shows the header and the sizes of a message. It needs no key, and so
verifies nothing: whoever could change the message could change all that is
shown. It fails when no whole message has IN's size, and cannot tell every cut
from a shorter message.

With --json, sizes are in bytes, and plaintext_size is that of the compressed
plaintext when transformers names a compression, and null when the message is
signed, since signatures vary in size, or IN is cut short or has trailing data.

Of a folder or a bucket it shows a line for each object: its size as stored, its
kind as ls has it, its suite, its name and the keys that can open it; and then how
many objects are under each key. Data keys under branch keys, Vault and OpenBao say
the version of the key, too. With --json there is a line of JSON for each: its
name, kind and size, what is wrong with it, and its message as above.`,
		Example: `  pikokms inspect notes.enc
  pikokms inspect --json notes.enc | jq .encryption_context
  pikokms inspect --include '*.enc' 's3://bucket/backups/?region=eu-west-1'`,
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, arguments []string) error {
			if e.isWanted(arguments) {
				return survey(command.Context(), &e, os.Stdout, asJSON, arguments)
			}
			in, size, err := openInput(arguments)
			if err != nil {
				return err
			}
			defer in.Close()
			r, sizeErr, err := inspect(in, size)
			if err != nil {
				return err
			}
			if asJSON {
				err = r.printJSON(os.Stdout)
			} else {
				err = r.print(os.Stdout)
			}
			return cmp.Or(err, sizeErr)
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	e.add(command)
	return command
}

// maxHeader is the most bytes of a header that inspect holds in memory.
const maxHeader = 16 << 20

// inspect reads a message of size bytes, or to its end if size is negative. It returns sizeErr
// beside the report if no message has that size.
func inspect(in io.Reader, size int64) (r *report, sizeErr, err error) {
	h, err := header.Read(in, formatLimits)
	if err == io.EOF {
		return nil, nil, errors.New("the input is empty")
	}
	if err != nil {
		return nil, nil, err
	}
	if size < 0 {
		n, err := io.Copy(io.Discard, in)
		if err != nil {
			return nil, nil, err
		}
		size = int64(h.Size()) + n
	}
	r = &report{
		Version:           h.Version(),
		Suite:             h.Suite.String(),
		SuiteID:           fmt.Sprintf("0x%04x", uint16(h.Suite)),
		MessageID:         hex.EncodeToString(h.MessageID),
		EncryptionContext: h.EncryptionContext,
		KeyCommitment:     h.Suite.Commits(),
		Signed:            h.Suite.Signed(),
		ContentType:       map[header.ContentType]string{header.Framed: "framed", header.Unframed: "unframed"}[h.ContentType],
		FrameLength:       h.FrameLength,
		HeaderSize:        h.Size(),
		MessageSize:       size,
		Transformers:      []string{},
	}
	if r.EncryptionContext == nil {
		r.EncryptionContext = map[string]string{}
	}
	if chain := h.EncryptionContext[pikokms.ChainKey]; chain != "" {
		r.Transformers = strings.Split(chain, ",")
	}
	for _, k := range h.EncryptedDataKeys {
		r.EncryptedDataKeys = append(r.EncryptedDataKeys, reportKey{k.ProviderID, message.KeyName(k), message.KeyVersion(k), len(k.Ciphertext)})
	}
	if r.Signed {
		return r, nil, nil
	}
	plaintext, err := message.PlaintextSize(h, size)
	if err != nil {
		return r, fmt.Errorf("the message is cut short or has trailing data: %w", err), nil
	}
	r.PlaintextSize = &plaintext
	return r, nil, nil
}

func (r *report) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "Message format\tversion %d, %s\n", r.Version, r.ContentType)
	fmt.Fprintf(t, "Algorithm suite\t%s\n", r.Suite)
	fmt.Fprintf(t, "Message ID\t%s\n", r.MessageID)
	for i, name := range slices.Sorted(maps.Keys(r.EncryptionContext)) {
		fmt.Fprintf(t, "%s\t%s = %s\n", first(i, "Encryption context"), printable(name), printable(r.EncryptionContext[name]))
	}
	if len(r.EncryptionContext) == 0 {
		fmt.Fprintf(t, "Encryption context\tnone\n")
	}
	for i, k := range r.EncryptedDataKeys {
		fmt.Fprintf(t, "%s\t%s, key %s, %d bytes\n", first(i, "Encrypted data keys"), printable(k.ProviderID), k.name(), k.CiphertextSize)
	}
	if r.FrameLength > 0 {
		fmt.Fprintf(t, "Frame length\t%d bytes\n", r.FrameLength)
	}
	fmt.Fprintf(t, "Header size\t%d bytes\n", r.HeaderSize)
	fmt.Fprintf(t, "Message size\t%d bytes\n", r.MessageSize)
	switch {
	case r.Signed:
		fmt.Fprintf(t, "Plaintext size\tunknown, the signature's size varies\n")
	case r.PlaintextSize == nil:
		fmt.Fprintf(t, "Plaintext size\tunknown, no message has this size\n")
	case len(r.Transformers) > 0:
		fmt.Fprintf(t, "Compressed size\t%d bytes of plaintext, as %s left it\n", *r.PlaintextSize, printable(strings.Join(r.Transformers, ", ")))
	default:
		fmt.Fprintf(t, "Plaintext size\t%d bytes\n", *r.PlaintextSize)
	}
	fmt.Fprintf(t, "\nNot verified: only decrypting with a key tells whether this is true.\n")
	return t.Flush()
}

// first returns the label if it is for the first of several lines, and else nothing.
func first(i int, label string) string {
	if i > 0 {
		return ""
	}
	return label
}

// printable returns s, in quotes if it could be misread or has characters that control a terminal.
func printable(s string) string {
	quoted := strconv.Quote(s)
	if quoted == `"`+s+`"` && s != "" && !strings.ContainsAny(s, " ,=") {
		return s
	}
	return quoted
}

func (r *report) printJSON(w io.Writer) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(escapeControls(text), '\n'))
	return err
}

// escapeControls escapes the characters of a JSON text that control a terminal and that
// encoding/json leaves as they are.
func escapeControls(text []byte) []byte {
	var b []byte
	for _, r := range string(text) {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			b = utf8.AppendRune(b, r)
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			b = fmt.Appendf(b, `\u%04x\u%04x`, high, low)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
	}
	return b
}
