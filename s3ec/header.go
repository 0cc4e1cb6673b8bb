// Package s3ec reads objects that AWS's S3 Encryption Client wrote, by any of its versions 1 to 4,
// so that they can be moved. It writes none.
//
// The client keeps what it takes to decrypt an object in the object's metadata, or in an
// instruction file beside it (specification: awslabs/aws-encryption-sdk-specification,
// s3-encryption/data-format). There are three formats, whose numbers are not those of the clients:
//
//	1  AES-CBC, which authenticates nothing
//	2  AES-GCM, or AES-CBC of version 1 under AWS KMS; does not commit to its key
//	3  AES-GCM with key commitment
//
// One tag covers the whole of an object, so it is decrypted in memory, which is bounded, before a
// byte of it is given out.
package s3ec

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"

	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/internal/gcm"
	"piko.sh/pikokms/provider"
)

var (
	// ErrS3EncryptionClient means that the S3 Encryption Client wrote an object that is refused: its
	// reader may not read such objects, or its metadata are not what that client writes.
	ErrS3EncryptionClient = errors.New("AWS's S3 Encryption Client wrote it")
	// ErrInstruction means that what was read is an instruction file: no object, but a part of one.
	// It holds ErrS3EncryptionClient.
	ErrInstruction = fmt.Errorf("%w: it is an instruction file, and no object of its own", ErrS3EncryptionClient)
)

// The names of the metadata, without x-amz-meta-, and their values and sizes. An instruction file
// has the name instructionMark.
const (
	keyV1, keyV2, keyV3         = "x-amz-key", "x-amz-key-v2", "x-amz-3"
	ivV2, idV3                  = "x-amz-iv", "x-amz-i"
	wrapV2, wrapV3              = "x-amz-wrap-alg", "x-amz-w"
	contentV2, contentV3        = "x-amz-cek-alg", "x-amz-c"
	describedV2, describedV3    = "x-amz-matdesc", "x-amz-m"
	contextV3, commitmentV3     = "x-amz-t", "x-amz-d"
	tagLength                   = "x-amz-tag-len"
	plainLength, plainMD5       = "x-amz-unencrypted-content-length", "x-amz-unencrypted-content-md5"
	instructionMark             = "x-amz-crypto-instr-file"
	contentGCM, contentCBC      = "AES/GCM/NoPadding", "AES/CBC/PKCS5Padding"
	contentCommitting           = "115" // the suite's number, 0x0073
	pairContent, pairKMSKey     = "aws:x-amz-cek-alg", "kms_cmk_id"
	idSize, commitmentSize      = 28, 28
	maxCiphertext, maxDescribed = 8 << 10, 16 << 10 // bytes
	ivSizeCBC                   = 16
	wrapKMSContext, wrapKMS     = "kms+context", "kms"
	wrapAESGCM, wrapAESWrap     = "AES/GCM", "AESWrap"
	wrapOAEP1, wrapOAEP256      = "RSA-OAEP-SHA1", "RSA/ECB/OAEPWithSHA-256AndMGF1Padding"
	wrapECB, wrapPKCS1          = "AES", "RSA"
	longestECB                  = 48 // bytes of a data key that an AES key wrapped in format 1
)

var names = [...]string{
	keyV1, keyV2, keyV3, ivV2, idV3, wrapV2, wrapV3, contentV2, contentV3, describedV2, describedV3,
	contextV3, commitmentV3, tagLength, plainLength, plainMD5, instructionMark,
}

// InstructionSuffix ends the key of an instruction file; the object's key is before it.
const InstructionSuffix = ".instruction"

// maxKey is the size in bytes of S3's longest keys (Amazon S3 User Guide, "Naming Amazon S3
// objects"). The client writes to no other storage.
const maxKey = 1024

// maxInstruction is the most bytes that an instruction file may have.
const maxInstruction = 64 << 10

// Header is what the metadata of an object state. Nothing in it is authenticated until the object
// is decrypted.
type Header struct {
	Format   int    // 1, 2 or 3, the only one that commits to its key
	Wrapping string // the algorithm that wrapped the data key; as provider.S3ECDataKey has it
	Content  string // the algorithm of the content; "115" is that of format 3
	// Context is the encryption context of AWS KMS, without the client's own pairs. The material
	// description of other keys is not in it, since nothing authenticates that.
	Context map[string]string
	// Described is the material description or the encryption context, as it is stored.
	Described   map[string]string
	Instruction string // the key of the instruction file; empty if there is none
	// InstructionETag is the instruction file's ETag, if the storage sets it.
	InstructionETag string

	size                       int64  // of the object in bytes, as stored
	ciphertext, iv, commitment []byte // iv is the message ID in format 3
}

// Authenticates reports whether a tag shows that the content is what was encrypted.
func (h *Header) Authenticates() bool { return h.Content != contentCBC }

// PlaintextSize returns the size of the plaintext in bytes, or -1 if it can't be known.
func (h *Header) PlaintextSize() int64 {
	if !h.Authenticates() || h.size < gcm.TagSize {
		return -1
	}
	return h.size - gcm.TagSize
}

// isMetadata reports whether user metadata are those of an object of the client. An object that has
// an instruction file need not have such metadata.
func isMetadata(metadata map[string]string) bool {
	has := func(name string) bool { _, ok := metadata[name]; return ok }
	return has(keyV1) || has(keyV2) || has(contentV3) && (has(keyV3) || has(idV3))
}

// isMarked reports whether user metadata are those of an instruction file. Not all clients mark
// them.
func isMarked(metadata map[string]string) bool { _, ok := metadata[instructionMark]; return ok }

// isInstruction reports whether content is an instruction file.
func isInstruction(content []byte) bool {
	found, err := parseInstruction(content)
	if err != nil {
		return false
	}
	return found[keyV1] != "" || found[keyV2] != "" || found[keyV3] != ""
}

func parseInstruction(content []byte) (map[string]string, error) {
	if len(content) > maxInstruction {
		return nil, malformed("its instruction file has more than %d bytes", maxInstruction)
	}
	var members map[string]any
	if err := json.Unmarshal(content, &members); err != nil {
		return nil, malformed("its instruction file is no JSON object")
	}
	found := make(map[string]string)
	for name, value := range members {
		text, ok := value.(string)
		if !ok {
			return nil, malformed("%.100q in its instruction file is no string", name)
		}
		found[name] = text
	}
	return found, nil
}

// WithoutMetadata returns user metadata without those of the client.
func WithoutMetadata(metadata map[string]string) map[string]string {
	rest := maps.Clone(metadata)
	for _, name := range names {
		delete(rest, name)
	}
	return rest
}

func malformed(format string, arguments ...any) error {
	return fmt.Errorf("%w, and "+format+": %w", append(append([]any{ErrS3EncryptionClient}, arguments...), provider.ErrInvalidCiphertext)...)
}

// Find reads the metadata of an object of this key and this size in bytes, and its instruction
// file. A storage makes an S3ECHeader with it. Find returns nil if the client did not write the
// object.
//
// If metadata do not have the data key, Find calls open with the key of the instruction file, and
// reads its first 64 KiB. The error of open holds fs.ErrNotExist if there is no such file. The
// file's key ends in suffix or, if there is none of that key, in InstructionSuffix. Without
// metadata of the client, the file is looked for only if beside is true.
//
// Find refuses all that no version of the client writes: a mixture of two formats, such as an
// object that was made to look like one of an older format, and other algorithms. The error holds
// ErrS3EncryptionClient and provider.ErrInvalidCiphertext, or ErrInstruction, or is that of open or
// of the file.
func Find(metadata map[string]string, beside bool, key, suffix string, size int64, open func(key string) (io.ReadCloser, error)) (*Header, error) {
	inMetadata := isMetadata(metadata)
	if isMarked(metadata) {
		return nil, ErrInstruction
	}
	if !inMetadata && !beside {
		return nil, nil
	}
	var instruction []byte
	name := ""
	if metadata[keyV1] == "" && metadata[keyV2] == "" && metadata[keyV3] == "" {
		var err error
		name, instruction, err = readBeside(key, suffix, open)
		missing := errors.Is(err, fs.ErrNotExist)
		switch {
		case missing && inMetadata:
			return nil, malformed("there is no instruction file %q, to which its metadata leave its data key", name)
		case missing:
			return nil, nil
		case err != nil:
			return nil, err
		case !isInstruction(instruction) && !inMetadata:
			return nil, nil // the object beside it is one of its own
		}
	}
	h, err := parse(metadata, instruction)
	if err != nil {
		return nil, err
	}
	h.size, h.Instruction = size, name
	return h, nil
}

// readBeside reads the instruction file beside an object or, if there is none, the object that is
// there. The error holds fs.ErrNotExist if there is none either.
func readBeside(key, suffix string, open func(key string) (io.ReadCloser, error)) (name string, content []byte, err error) {
	name, err = key+suffix, fs.ErrNotExist
	for _, end := range slices.Compact([]string{suffix, InstructionSuffix}) {
		if len(key+end) > maxKey {
			continue
		}
		found, failed := readInstruction(key+end, open)
		switch {
		case errors.Is(failed, fs.ErrNotExist):
		case failed != nil || isInstruction(found):
			return key + end, found, failed
		case err != nil:
			name, content, err = key+end, found, nil
		}
	}
	return name, content, err
}

// readInstruction reads the beginning of an instruction file, as much as one may have and a byte
// more.
func readInstruction(key string, open func(key string) (io.ReadCloser, error)) (content []byte, err error) {
	file, err := open(key)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return io.ReadAll(io.LimitReader(&checked.Reader{Source: file}, maxInstruction+1))
}

// parse reads the metadata of an object, and its instruction file, which is empty if there is none.
func parse(metadata map[string]string, instruction []byte) (*Header, error) {
	found := make(map[string]string)
	for _, name := range names {
		if value, ok := metadata[name]; ok {
			found[name] = value
		}
	}
	if len(instruction) > 0 {
		beside, err := parseInstruction(instruction)
		if err != nil {
			return nil, err
		}
		// Format 3 leaves three of its metadata with the object. The others leave nothing there.
		for _, name := range names {
			_, twice := found[name]
			value, ok := beside[name]
			if ok && (twice || name == contentV3 || name == commitmentV3 || name == idV3) {
				return nil, malformed("its instruction file has %s, which belongs to its metadata", name)
			}
			if ok {
				found[name] = value
			}
		}
	}
	var formats []int
	for format, name := range []string{1: keyV1, 2: keyV2, 3: keyV3} {
		if _, ok := found[name]; ok && format > 0 {
			formats = append(formats, format)
		}
	}
	if len(formats) != 1 {
		return nil, malformed("its metadata are of %d formats", len(formats))
	}
	h := &Header{Format: formats[0]}
	if err := h.checkNames(found); err != nil {
		return nil, err
	}
	switch h.Format {
	case 1:
		return h, h.parseV1(found)
	case 2:
		return h, h.parseV2(found)
	}
	return h, h.parseV3(found)
}

// checkNames refuses metadata that belong to another format.
func (h *Header) checkNames(found map[string]string) error {
	others := map[int][]string{
		1: {wrapV2, contentV2, tagLength, wrapV3, contentV3, describedV3, contextV3, commitmentV3, idV3},
		2: {wrapV3, contentV3, describedV3, contextV3, commitmentV3, idV3},
		3: {wrapV2, contentV2, tagLength, describedV2, ivV2},
	}
	for _, name := range others[h.Format] {
		if _, ok := found[name]; ok {
			return malformed("its metadata are of format %d and have %s, which is another's", h.Format, name)
		}
	}
	return nil
}

func (h *Header) parseV1(found map[string]string) (err error) {
	if h.ciphertext, err = decode(keyV1, found, 1, maxCiphertext); err != nil {
		return err
	}
	h.Content, h.Wrapping = contentCBC, wrapPKCS1
	if len(h.ciphertext) <= longestECB {
		h.Wrapping = wrapECB
	}
	if h.iv, err = decode(ivV2, found, ivSizeCBC, ivSizeCBC); err != nil {
		return err
	}
	return h.describe(found[describedV2])
}

func (h *Header) parseV2(found map[string]string) (err error) {
	if h.ciphertext, err = decode(keyV2, found, 1, maxCiphertext); err != nil {
		return err
	}
	h.Content, h.Wrapping = found[contentV2], found[wrapV2]
	ivSize := gcm.IVSize
	switch h.Content {
	case contentGCM:
		if found[tagLength] != "128" {
			return malformed("its tag has %.20q bits instead of 128", found[tagLength])
		}
	case contentCBC:
		ivSize = ivSizeCBC
		if found[tagLength] != "" {
			return malformed("its content is of AES-CBC, which has no tag, and its metadata have %s", tagLength)
		}
	default:
		return malformed("its content is of the algorithm %.100q", h.Content)
	}
	switch h.Wrapping {
	case wrapKMS, wrapAESWrap, wrapOAEP256: // the first version's, which bind nothing to the data key
	case wrapKMSContext, wrapAESGCM, wrapOAEP1:
		if h.Content != contentGCM {
			return malformed("its data key is wrapped by %s, which is never for %s", h.Wrapping, h.Content)
		}
	default:
		return malformed("its data key is wrapped by the algorithm %.100q", h.Wrapping)
	}
	if h.iv, err = decode(ivV2, found, ivSize, ivSize); err != nil {
		return err
	}
	return h.describe(found[describedV2])
}

func (h *Header) parseV3(found map[string]string) (err error) {
	if h.Content = found[contentV3]; h.Content != contentCommitting {
		return malformed("its content is of the suite %.100q; known is %s", h.Content, contentCommitting)
	}
	if h.Wrapping = map[string]string{"02": wrapAESGCM, "12": wrapKMSContext, "22": wrapOAEP1}[found[wrapV3]]; h.Wrapping == "" {
		return malformed("its data key is wrapped by the algorithm %.100q", found[wrapV3])
	}
	if h.ciphertext, err = decode(keyV3, found, 1, maxCiphertext); err != nil {
		return err
	}
	if h.iv, err = decode(idV3, found, idSize, idSize); err != nil {
		return err
	}
	if h.commitment, err = decode(commitmentV3, found, commitmentSize, commitmentSize); err != nil {
		return err
	}
	own, other := contextV3, describedV3
	if h.Wrapping != wrapKMSContext {
		own, other = other, own
	}
	if _, ok := found[other]; ok {
		return malformed("its data key is wrapped by %s, and its metadata have %s, which is another's", h.Wrapping, other)
	}
	return h.describe(found[own])
}

// decode decodes a value in its only base64 form.
func decode(name string, found map[string]string, least, most int) ([]byte, error) {
	text, ok := found[name]
	if !ok {
		return nil, malformed("it has no %s", name)
	}
	if len(text) > base64.StdEncoding.EncodedLen(most) || strings.ContainsAny(text, "\r\n") {
		return nil, malformed("its %s has %d characters, or several lines", name, len(text))
	}
	value, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(value) < least || len(value) > most {
		return nil, malformed("its %s is no base64 of %d to %d bytes", name, least, most)
	}
	return value, nil
}

// describe reads the material description or the encryption context. Under AWS KMS it must name the
// algorithm of the content, so that no algorithm can be passed off as another.
func (h *Header) describe(text string) error {
	if text == "" {
		text = "{}"
	}
	if len(text) > maxDescribed {
		return malformed("its description has more than %d bytes", maxDescribed)
	}
	decoder := json.NewDecoder(strings.NewReader(unmangle(text)))
	if err := decoder.Decode(&h.Described); err != nil || h.Described == nil {
		return malformed("its description is no JSON object of strings")
	}
	if _, err := decoder.Token(); err != io.EOF {
		return malformed("its description is more than a JSON object")
	}
	content, named := h.Described[pairContent]
	_, ofKMS := h.Described[pairKMSKey]
	switch h.Wrapping {
	case wrapKMSContext:
		if content != h.Content {
			return malformed("its encryption context is for content of the algorithm %.100q, and it has %.100q", content, h.Content)
		}
	case wrapKMS:
		if named || !ofKMS {
			return malformed("its encryption context is not of the wrapping algorithm %s", wrapKMS)
		}
	default:
		return nil
	}
	h.Context = maps.Clone(h.Described)
	delete(h.Context, pairContent)
	delete(h.Context, pairKMSKey)
	return nil
}

// unmangle undoes what S3 does to metadata that are not ASCII: it takes the bytes of their UTF-8
// for Latin-1, and encodes that again, in the words of RFC 2047.
func unmangle(text string) string {
	if !strings.Contains(text, "=?") {
		return text
	}
	decoded, err := new(mime.WordDecoder).DecodeHeader(text)
	if err != nil {
		return text
	}
	var bytes []byte
	for _, r := range decoded {
		if r > 0xff {
			return decoded
		}
		bytes = append(bytes, byte(r))
	}
	if !utf8.Valid(bytes) {
		return decoded
	}
	return string(bytes)
}
