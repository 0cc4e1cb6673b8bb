package s3storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/s3ec"
)

var (
	_ s3ec.Stored = (*Version)(nil)
	_ s3ec.Stored = (*content)(nil)
	_ s3ec.Stored = (*object)(nil)
)

// WithInstructionSuffix sets what ends the key of an instruction file of AWS's S3 Encryption
// Client, for objects that were encrypted again for another key. Where an object has none of that
// name, its instruction file is that of s3ec.InstructionSuffix.
func WithInstructionSuffix(suffix string) Option {
	return func(s *Storage) { s.instruction = suffix }
}

// client is what is known about an object that the S3 Encryption Client may have written.
type client struct {
	storage       *Storage
	key           string
	size          int64
	metadata      map[string]string
	isInstruction bool // its content is that of an instruction file
}

// S3EncryptionClient reports whether the metadata of an object say that the S3 Encryption Client
// wrote it, in any of its three formats, or that it is an instruction file. If an object is smaller
// than one of the client can be, and has the name of an instruction file, its content is looked at.
func (c *client) S3EncryptionClient() bool {
	return c != nil && (c.isInstruction || isClientMetadata(c.metadata))
}

// isClientMetadata reports whether metadata are those of an object of the S3 Encryption Client, or
// of an instruction file.
func isClientMetadata(metadata map[string]string) bool {
	none := func(string) (io.ReadCloser, error) { return nil, fs.ErrNotExist }
	h, err := s3ec.Find(metadata, false, "", s3ec.InstructionSuffix, 0, none)
	return h != nil || err != nil // it is one, or one that is malformed
}

// isInstruction reports whether content is an instruction file.
func isInstruction(content []byte) bool {
	open := func(string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	h, err := s3ec.Find(nil, true, "", s3ec.InstructionSuffix, 0, open)
	return h != nil || err != nil
}

// S3ECHeader implements s3ec.Stored. An instruction file takes a request more.
func (c *client) S3ECHeader(ctx context.Context, beside bool) (*s3ec.Header, error) {
	if c == nil { // the version was not opened
		return nil, nil
	}
	if c.isInstruction {
		return nil, s3ec.ErrInstruction
	}
	var etag string
	h, err := s3ec.Find(c.metadata, beside, c.key, c.storage.instruction, c.size, func(key string) (io.ReadCloser, error) {
		v, err := c.storage.openVersion(ctx, key, "")
		if err != nil {
			return nil, err
		}
		etag = aws.ToString(v.ETag)
		return v.Body, nil
	})
	if h != nil {
		h.InstructionETag = etag
	}
	return h, err
}

// lookForInstruction reads a version that may be an instruction file. The version can still be read
// from its beginning afterwards.
func (v *Version) lookForInstruction(ctx context.Context) error {
	if !v.storage.mayBeInstruction(v.Key, v.size) {
		return nil
	}
	start := make([]byte, v.size)
	source := &checked.Reader{Context: ctx, Source: v.Body}
	n, err := source.ReadFull(start)
	if err != nil && err != io.EOF {
		return err
	}
	v.isInstruction = isInstruction(start[:n])
	v.Body = &content{io.MultiReader(bytes.NewReader(start[:n]), source), v.Body, v.client}
	return nil
}

// maxInstruction is the size in bytes up to which an object is looked at. Package s3ec refuses
// larger instruction files.
const maxInstruction = 64 << 10

func (s *Storage) mayBeInstruction(key string, size int64) bool {
	isNamed := strings.HasSuffix(key, s.instruction) || strings.HasSuffix(key, s3ec.InstructionSuffix)
	return isNamed && size <= maxInstruction
}

// content is the content of a version.
type content struct {
	io.Reader
	io.Closer
	*client
}

// removeInstruction removes the instruction file of an object that was moved, once the new object
// was read back, if it is still the one that was read: the client puts a new one before it puts its
// object. AWS has a condition for that, others may not.
func (s *Storage) removeInstruction(ctx context.Context, moved *s3ec.Moved, isStored func() bool) error {
	name := moved.Content.Header.Instruction
	if name == "" {
		return nil
	}
	if !isStored() {
		return fmt.Errorf("%w: the new object is not read back as it was sent; its instruction file %s stays", ErrAnswer, onOneLine(name))
	}
	in := &s3.DeleteObjectInput{Bucket: &s.bucket, Key: &name}
	etag := moved.Content.Header.InstructionETag
	if etag != "" && s.client.Options().BaseEndpoint == nil {
		in.IfMatch = &etag
	}
	now, err := s.Stat(ctx, name)
	switch {
	case err == nil && aws.ToString(now.ETag) != etag:
		err = pikokms.ErrChanged
	case err == nil:
		_, err = s.client.DeleteObject(ctx, in)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !isMissing(err) {
		return fmt.Errorf("the new object is stored, and its instruction file %s could not be removed: %w", onOneLine(name), err)
	}
	return nil
}
