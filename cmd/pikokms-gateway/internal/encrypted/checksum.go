package encrypted

import (
	"bytes"
	"encoding/base64"
	"hash"
	"io"
	"net/http"
	"reflect"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/minio/crc64nvme"
	"github.com/versity/versitygw/s3api/middlewares"
	"github.com/versity/versitygw/s3api/utils"
	"github.com/versity/versitygw/s3err"
)

// checksum is a checksum of plaintext, as S3 writes it.
type checksum struct {
	Algorithm types.ChecksumAlgorithm
	Type      types.ChecksumType
	Value     string
}

// algorithms has the checksum algorithms of S3. The fields of its requests and answers are named by
// them.
var algorithms = []types.ChecksumAlgorithm{
	types.ChecksumAlgorithmCrc32, types.ChecksumAlgorithmCrc32c, types.ChecksumAlgorithmSha1, types.ChecksumAlgorithmSha256,
	types.ChecksumAlgorithmCrc64nvme, types.ChecksumAlgorithmSha512, types.ChecksumAlgorithmMd5, types.ChecksumAlgorithmXxhash64,
	types.ChecksumAlgorithmXxhash3, types.ChecksumAlgorithmXxhash128,
}

// takeChecksum returns the checksum that is in the fields of a request or an answer of S3, and
// clears these. The argument is a pointer to a struct.
func takeChecksum(fields any) (c checksum) {
	if all := checksumsIn(fields); len(all) > 0 {
		c = all[0]
	}
	all := reflect.ValueOf(fields).Elem()
	for _, a := range algorithms {
		if field := all.FieldByName("Checksum" + string(a)); field.IsValid() {
			field.SetZero()
		}
	}
	return c
}

// checksumsIn returns the checksums that are in the fields, and leaves them there.
func checksumsIn(fields any) (found []checksum) {
	all := reflect.ValueOf(fields).Elem()
	for _, a := range algorithms {
		field := all.FieldByName("Checksum" + string(a))
		if !field.IsValid() {
			continue
		}
		if value, _ := field.Interface().(*string); value != nil && *value != "" {
			found = append(found, checksum{Algorithm: a, Value: *value})
		}
	}
	return found
}

// put sets the fields of an answer of S3 to the checksum.
func (c checksum) put(fields any) {
	takeChecksum(fields)
	all := reflect.ValueOf(fields).Elem()
	if kind := all.FieldByName("ChecksumType"); kind.IsValid() {
		switch {
		case kind.Kind() != reflect.Pointer:
			kind.Set(reflect.ValueOf(c.Type))
		case c.Type != "":
			kind.Set(reflect.ValueOf(&c.Type))
		}
	}
	if c.Value != "" {
		all.FieldByName("Checksum" + string(c.Algorithm)).Set(reflect.ValueOf(&c.Value))
	}
}

// requestContent is the content of a request while it is verified.
type requestContent struct {
	source io.Reader
	left   int64     // bytes that the request announced and that were not read yet
	sum    *checksum // complete once source has ended
	finish func() (value string)
	asked  bool  // the client named the algorithm
	known  bool  // the checksum is known before the content is read
	kept   bool  // the checksum is stored, though it is known only after the content
	joined bool  // the content comes from the parts of an upload
	err    error // the first error but io.EOF
}

// newContent returns the content of a request of size bytes, which may be negative: the engine
// passes on whatever X-Amz-Decoded-Content-Length has. Read returns io.EOF only once it has
// verified the checksum that the request states.
func (b *Backend) newContent(source io.Reader, size int64, stated checksum) (*requestContent, error) {
	if size < 0 {
		return nil, s3err.APIError{Code: "InvalidArgument", Description: "The length of the content is negative.", HTTPStatusCode: http.StatusBadRequest}
	}
	c := &requestContent{left: size, sum: &stated, asked: stated.Algorithm != "", known: stated.Value != ""}
	stated.Type = types.ChecksumTypeFullObject
	trailing, ok := source.(middlewares.ChecksumReader)
	source = decodedContent{source, b}
	if ok && trailing.Algorithm() != "" {
		stated.Algorithm, c.asked, c.known = types.ChecksumAlgorithm(strings.ToUpper(trailing.Algorithm())), true, false
		c.source, c.finish = source, trailing.Checksum
		return c, nil
	}
	if stated.Algorithm == "" {
		stated.Algorithm = types.ChecksumAlgorithmCrc64nvme
	}
	var err error
	c.source, c.finish, err = newHashReader(source, stated)
	return c, err
}

// decodedContent is content that the engine may have to decode from aws-chunked. Its decoder panics
// at some chunks, such as those of a negative size. The client gets an error for them. They are
// also logged, since the decoder may be wrong.
type decodedContent struct {
	io.Reader
	b *Backend
}

func (d decodedContent) Read(p []byte) (n int, err error) {
	defer func() {
		failed := d.b.logPanic("decode the content of a request", recover())
		if failed != nil || n < 0 || n > len(p) {
			n, err = 0, s3err.GetAPIError(s3err.ErrIncompleteBody)
		}
	}()
	return d.Reader.Read(p)
}

// newHashReader returns a reader that verifies the checksum of what it reads, if there is one, and
// a function that returns the checksum of what was read.
func newHashReader(source io.Reader, stated checksum) (io.Reader, func() string, error) {
	if stated.Algorithm == types.ChecksumAlgorithmCrc64nvme { // the engine's own takes as long as the encryption
		r := &crc64Reader{source: source, stated: stated.Value, hash: crc64nvme.New()}
		return r, r.sum, nil
	}
	r, err := utils.NewHashReader(source, stated.Value, utils.HashType(strings.ToLower(string(stated.Algorithm))))
	if err != nil {
		return nil, nil, err
	}
	return r, r.Sum, nil
}

// crc64Reader verifies a CRC64NVME.
type crc64Reader struct {
	source io.Reader
	stated string // empty means none
	hash   hash.Hash64
}

func (r *crc64Reader) sum() string { return base64.StdEncoding.EncodeToString(r.hash.Sum(nil)) }

func (r *crc64Reader) Read(p []byte) (int, error) {
	n, err := r.source.Read(p)
	_, _ = r.hash.Write(p[:n]) // it never fails
	if err == io.EOF && r.stated != "" && r.stated != r.sum() {
		err = s3err.GetChecksumBadDigestErr(types.ChecksumAlgorithmCrc64nvme)
	}
	return n, err
}

func (c *requestContent) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.source.Read(p)
	c.left -= int64(n)
	switch {
	case c.left < 0, err == io.EOF && c.left > 0, err == io.ErrUnexpectedEOF:
		err = s3err.GetAPIError(s3err.ErrIncompleteBody) // readers below turn a broken connection into io.EOF
	case err == io.EOF:
		c.sum.Value = c.finish()
		return n, err
	}
	c.err = err
	return n, err
}

// preread reads and verifies the whole content, so that its checksum is known.
func (c *requestContent) preread() error {
	all := bytes.NewBuffer(make([]byte, 0, c.left+bytes.MinRead)) // of which ReadFrom needs the last bytes
	if _, err := all.ReadFrom(c); err != nil {
		return err
	}
	sum := *c.sum
	*c = requestContent{source: all, left: int64(all.Len()), sum: &sum, finish: func() string { return sum.Value }, known: true}
	return nil
}
