package header

// Append gives tests a header that no reader need take.
func (h *Header) Append(b []byte) ([]byte, error) {
	b, err := h.appendBody(b)
	if err != nil {
		return nil, err
	}
	return h.appendAuthentication(b), nil
}
