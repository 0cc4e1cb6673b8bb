package look

import (
	"fmt"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
)

// Client is what inspect finds of an object of AWS's S3 Encryption Client. Its JSON form is stable.
type Client struct {
	Format            int               `json:"format"`
	ContentAlgorithm  string            `json:"content_algorithm"`
	WrappingAlgorithm string            `json:"wrapping_algorithm"`
	KeyCommitment     bool              `json:"key_commitment"`
	Authenticated     bool              `json:"authenticated"`
	Key               string            `json:"key,omitempty"`         // that the client recorded, if it did
	Description       map[string]string `json:"description"`           // the material description, or the encryption context of AWS KMS
	Instruction       string            `json:"instruction,omitempty"` // the key of the instruction file
}

// contentSuite is how the client names the suite of format 3.
const contentSuite = "115"

// ClientReport returns what is known of an object of AWS's S3 Encryption Client, or nil.
func (x *Object) ClientReport() *Client {
	h := x.Client
	if h == nil {
		return nil
	}
	c := &Client{
		Format: h.Format, ContentAlgorithm: h.Content, WrappingAlgorithm: h.Wrapping, KeyCommitment: h.Format == 3,
		Authenticated: h.Authenticates(), Key: h.Described["kms_cmk_id"], Description: h.Described, Instruction: h.Instruction,
	}
	if c.ContentAlgorithm == contentSuite {
		c.ContentAlgorithm = "AES/GCM/NoPadding with key commitment"
	}
	return c
}

// Text returns a line about the object, for people.
func (c *Client) Text() string {
	text := fmt.Sprintf("format %d, %s, data key under %s", c.Format, c.ContentAlgorithm, c.WrappingAlgorithm)
	if c.Key != "" {
		text += " " + console.Printable(c.Key)
	}
	if !c.Authenticated {
		text += ", not authenticated"
	}
	if c.Instruction != "" {
		text += ", with an instruction file"
	}
	return text
}
