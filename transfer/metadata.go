package transfer

import (
	"io"
	"maps"
	"strconv"
	"strings"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/s3ec"
)

// HeaderSizeKey is the metadata key under which a bucket's object records the size in bytes of its
// header, if the size of its plaintext follows from that and from the size of the object. So the
// object's attributes give the size of the plaintext without a further request.
const HeaderSizeKey = "pikokms-header-size"

// SetHeaderSize replaces the pair of HeaderSizeKey in the metadata with which content is to be
// stored, and returns the metadata, which may be nil. The pair must not outlive the header that it
// describes, so it is removed if content is no result of pikokms.Host.EncryptObject, is compressed
// or signed, or has frames of another length than header.DefaultFrameLength. The key is
// HeaderSizeKey as the storage escapes it; its case does not matter.
func SetHeaderSize(metadata map[string]string, key string, content io.Reader) map[string]string {
	maps.DeleteFunc(metadata, func(name, _ string) bool { return strings.EqualFold(name, key) })
	if moved, ok := content.(*s3ec.Moved); ok {
		content = moved.Reader
	}
	encrypted, ok := content.(*message.EncryptReader)
	if !ok {
		return metadata
	}
	h := encrypted.Header()
	if _, compressed := h.EncryptionContext[pikokms.PairTransformers]; compressed || h.Suite.Signed() || h.FrameLength != header.DefaultFrameLength {
		return metadata
	}
	if metadata == nil {
		metadata = make(map[string]string, 1)
	}
	metadata[key] = strconv.Itoa(h.Size())
	return metadata
}

// PlaintextSize returns the size in bytes of the plaintext of a stored object of a size, by the
// pair of HeaderSizeKey in its metadata. It reports false if there is no such pair, or if somebody
// changed it so that no object has that size.
func PlaintextSize(metadata map[string]string, stored int64) (int64, bool) {
	n, err := strconv.ParseUint(metadata[HeaderSizeKey], 10, 32)
	if err != nil {
		return 0, false
	}
	size, err := frame.PlaintextSize(stored-int64(n), header.DefaultFrameLength)
	return size, err == nil
}
