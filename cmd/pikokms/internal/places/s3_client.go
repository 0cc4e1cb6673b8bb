package places

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"strings"
	"sync"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
)

// errS3Client means that an object is encrypted, and that only the S3 Encryption Client reads it.
var errS3Client = errors.New("AWS's S3 Encryption Client wrote it, which pikokms does not read and must not change; --exclude leaves it out")

// instructionSuffix ends the name of the object in which the S3 Encryption Client can keep what it
// else keeps in an object's metadata (Amazon S3 Encryption Client Developer Guide).
const instructionSuffix = ".instruction"

// maxInstruction is more bytes than such an object has.
const maxInstruction = 64 << 10

// instructions are the names that a bucket has of objects with instructions beside them, as far as
// they are listed.
type instructions struct {
	mu     sync.Mutex
	whole  bool // all objects were listed
	beside map[string]bool
}

// note takes a key of a listing.
func (n *instructions) note(key string) {
	if object, ok := strings.CutSuffix(key, instructionSuffix); ok {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.beside == nil {
			n.beside = make(map[string]bool)
		}
		n.beside[object] = true
	}
}

func (n *instructions) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.whole = true
}

// mayBeBeside reports whether there may be an object with instructions beside this one.
func (n *instructions) mayBeBeside(key string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.whole || n.beside[key]
}

// isS3Client reports whether the S3 Encryption Client wrote an object that begins with start and
// whose metadata do not say so: with instructions beside it, or as such.
func (b *s3Objects) isS3Client(ctx context.Context, key string, start []byte) (is bool, err error) {
	if strings.HasSuffix(key, instructionSuffix) && isInstruction(start) {
		return true, nil
	}
	if !b.instructions.mayBeBeside(key) {
		return false, nil
	}
	v, err := b.OpenVersion(ctx, b.prefix+key+instructionSuffix, "")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, OfStorage(err) // with its name, which is not the object's
	}
	defer func() { err = OfStorage(errors.Join(err, v.Close())) }()
	if v.S3EncryptionClient() {
		return true, nil
	}
	content, err := io.ReadAll(io.LimitReader(v, maxInstruction))
	return isInstruction(content), err
}

// isInstruction reports whether content is the JSON that the S3 Encryption Client has beside an
// object.
func isInstruction(content []byte) bool {
	var metadata map[string]any
	if json.Unmarshal(content, &metadata) != nil {
		return false
	}
	for _, name := range []string{"x-amz-key", "x-amz-key-v2", "x-amz-3"} {
		if _, ok := metadata[name]; ok {
			return true
		}
	}
	return false
}

// RefuseS3Client returns an error for an object that the S3 Encryption Client wrote.
func (s *Source) RefuseS3Client(ctx context.Context) error {
	if s.s3Client == nil {
		return nil
	}
	start, err := s.Start()
	if err != nil || header.Sniff(start) {
		return nil // what is wrong, the work on the object says
	}
	if start, err = s.Peek(PeekSize); err != nil && err != io.EOF {
		return nil
	}
	is := s.version.S3EncryptionClient()
	if !is {
		if is, err = s.s3Client(ctx, start); err != nil {
			return err
		}
	}
	if is {
		return errS3Client
	}
	return nil
}

// IsS3Client reports whether the S3 Encryption Client wrote an object that is open and does not begin
// as one of pikokms.
func (p *Place) IsS3Client(ctx context.Context, key string, open pikokms.Object) (bool, error) {
	b, ok := p.objects.(*s3Objects)
	if !ok {
		return false, nil
	}
	if client, ok := open.(interface{ S3EncryptionClient() bool }); ok && client.S3EncryptionClient() {
		return true, nil
	}
	var start []byte
	if strings.HasSuffix(key, instructionSuffix) {
		start = make([]byte, min(open.Size(), maxInstruction))
		if _, err := open.ReadAt(start, 0); err != nil && err != io.EOF {
			return false, err
		}
	}
	return b.isS3Client(ctx, key, start)
}
