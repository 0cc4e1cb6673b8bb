package crypto_dto

// The streams of Piko's own providers.
const (
	StreamingEnvelopeVersion byte = 0x02
	DefaultChunkSize              = 64 * 1024 // bytes of plaintext
)

// StreamingHeader is the JSON object that such a stream begins with.
type StreamingHeader struct {
	KeyID            string `json:"key_id"`
	Provider         string `json:"provider"`
	IV               string `json:"iv"`
	EncryptedDataKey string `json:"edk,omitempty"`
	Algorithm        string `json:"algorithm,omitempty"`
	Version          int    `json:"version"`
}
