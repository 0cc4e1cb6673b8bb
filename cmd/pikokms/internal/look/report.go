// Package look reads what objects say of themselves, without a key.
package look

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
)

// formatLimits are the limits of the format itself. Only the size of a header is bounded, for the
// memory that it takes.
var formatLimits = header.Limits{MaxSize: maxHeader, MaxPairs: math.MaxUint16, MaxEncryptedDataKeys: math.MaxUint16, MaxFrameLength: math.MaxInt32}

// Report is what inspect finds. Its JSON form is stable.
type Report struct {
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

// Name returns the name of the key, with its version if that is known.
func (k reportKey) Name() string {
	if k.KeyVersion == "" {
		return console.Printable(k.Key)
	}
	return console.Printable(k.Key) + " version " + console.Printable(k.KeyVersion)
}

// maxHeader is the most bytes of a header that inspect holds in memory.
const maxHeader = 16 << 20

// Inspect reads a message of size bytes, or to its end if size is negative. It returns sizeErr
// beside the report if no message has that size.
func Inspect(in io.Reader, size int64) (r *Report, sizeErr, err error) {
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
	r = &Report{
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
	if chain := h.EncryptionContext[pikokms.PairTransformers]; chain != "" {
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

func (r *Report) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "Message format\tversion %d, %s\n", r.Version, r.ContentType)
	fmt.Fprintf(t, "Algorithm suite\t%s\n", r.Suite)
	fmt.Fprintf(t, "Message ID\t%s\n", r.MessageID)
	for i, name := range slices.Sorted(maps.Keys(r.EncryptionContext)) {
		fmt.Fprintf(t, "%s\t%s = %s\n", console.FirstOnly(i, "Encryption context"), console.Printable(name), console.Printable(r.EncryptionContext[name]))
	}
	if len(r.EncryptionContext) == 0 {
		fmt.Fprintf(t, "Encryption context\tnone\n")
	}
	for i, k := range r.EncryptedDataKeys {
		fmt.Fprintf(t, "%s\t%s, key %s, %d bytes\n", console.FirstOnly(i, "Encrypted data keys"), console.Printable(k.ProviderID), k.Name(), k.CiphertextSize)
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
		fmt.Fprintf(t, "Compressed size\t%d bytes of plaintext, as %s left it\n", *r.PlaintextSize, console.Printable(strings.Join(r.Transformers, ", ")))
	default:
		fmt.Fprintf(t, "Plaintext size\t%d bytes\n", *r.PlaintextSize)
	}
	fmt.Fprintf(t, "\nNot verified: only decrypting with a key tells whether this is true.\n")
	return t.Flush()
}

func (r *Report) PrintJSON(w io.Writer) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(console.EscapeControls(text), '\n'))
	return err
}
