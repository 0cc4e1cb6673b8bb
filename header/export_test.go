package header

import "piko.sh/pikokms/internal/gcm"

// Append gives tests a header that no reader need take.
func (h *Header) Append(b []byte) ([]byte, error) {
	b, err := h.appendBody(b)
	if err != nil {
		return nil, err
	}
	return h.appendAuthentication(b), nil
}

// Authentication gives tests the tag of a header and the tag's IV.
func (h *Header) Authentication() (iv *[gcm.IVSize]byte, tag *[gcm.TagSize]byte) {
	return &h.iv, &h.tag
}
