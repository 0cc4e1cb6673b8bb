package places

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/pflag"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/s3ec"
	"piko.sh/pikokms/s3storage"
)

// ErrS3Client means that AWS's S3 Encryption Client encrypted an object already.
var ErrS3Client = errors.New("AWS's S3 Encryption Client wrote it, so it is encrypted already; rewrap moves it, and --exclude leaves it out")

// instructions has the objects of a bucket that have instruction files beside them, as far as the
// bucket was listed.
type instructions struct {
	suffix string // what ends the names of instruction files, beside s3ec.InstructionSuffix

	mu     sync.Mutex
	whole  bool // all objects were listed
	beside map[string]bool
}

// object returns the key of the object that an instruction file of this key is for.
func (n *instructions) object(key string) (string, bool) {
	if object, ok := strings.CutSuffix(key, n.suffix); ok {
		return object, true
	}
	return strings.CutSuffix(key, s3ec.InstructionSuffix)
}

// note notes a key of a listing.
func (n *instructions) note(key string) {
	if object, ok := n.object(key); ok {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.beside == nil {
			n.beside = make(map[string]bool)
		}
		n.beside[object] = true
	}
}

// end notes that all keys were listed.
func (n *instructions) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.whole = true
}

// mayBeBeside reports whether there may be an instruction file beside this object.
func (n *instructions) mayBeBeside(key string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.whole || n.beside[key]
}

// listedObject is an open object of a bucket. It looks for an instruction file only where the
// listing has one.
type listedObject struct {
	pikokms.Object
	objects *s3Objects
	key     string
}

// S3ECHeader implements s3ec.Stored.
func (o listedObject) S3ECHeader(ctx context.Context, beside bool) (*s3ec.Header, error) {
	return o.objects.clientHeader(ctx, o.Object, o.key, beside)
}

// clientHeader returns what is known of an object if the S3 Encryption Client wrote it.
func (b *s3Objects) clientHeader(ctx context.Context, stored any, key string, beside bool) (*s3ec.Header, error) {
	h, err := stored.(s3ec.Stored).S3ECHeader(ctx, beside && b.instructions.mayBeBeside(key))
	return h, OfStorage(err) // with the name of the instruction file, which is not the object's
}

// S3ECHeader implements s3ec.Stored.
func (o placeObject) S3ECHeader(ctx context.Context, beside bool) (*s3ec.Header, error) {
	return clientHeaderOf(ctx, o.object, beside)
}

func clientHeaderOf(ctx context.Context, stored any, beside bool) (*s3ec.Header, error) {
	known, ok := stored.(s3ec.Stored)
	if !ok {
		return nil, nil
	}
	return known.S3ECHeader(ctx, beside)
}

// WithClient returns r, which reads an open object from its beginning, as an s3ec.Stored that knows
// whether the S3 Encryption Client wrote the object.
func WithClient(r io.Reader, stored pikokms.Object) io.Reader { return clientReader{r, stored} }

type clientReader struct {
	io.Reader
	stored pikokms.Object
}

// S3ECHeader implements s3ec.Stored.
func (r clientReader) S3ECHeader(ctx context.Context, beside bool) (*s3ec.Header, error) {
	return clientHeaderOf(ctx, r.stored, beside)
}

// Client is what is known of an object that the S3 Encryption Client wrote.
type Client struct {
	Header        *s3ec.Header // nil if it is none of that client, or only an instruction file
	IsInstruction bool
}

// LookForClient looks whether the S3 Encryption Client wrote the object.
func (s *Source) LookForClient(ctx context.Context) error {
	if s.clientHeader == nil {
		return nil
	}
	start, err := s.Start()
	if err != nil {
		return nil // the error will come again when the object is read
	}
	s.Client, err = clientOf(s.clientHeader(ctx, !header.Sniff(start)))
	return err
}

func clientOf(h *s3ec.Header, err error) (Client, error) {
	if errors.Is(err, s3ec.ErrInstruction) {
		return Client{IsInstruction: true}, nil
	}
	return Client{Header: h}, err
}

// S3ECHeader implements s3ec.Stored, with what LookForClient found.
func (s *Source) S3ECHeader(context.Context, bool) (*s3ec.Header, error) {
	if s.Client.IsInstruction {
		return nil, s3ec.ErrInstruction
	}
	return s.Client.Header, nil
}

// Hold makes Close also close made, which reads the source.
func (s *Source) Hold(made io.Closer) {
	closeSource := s.close
	s.close = sync.OnceValue(func() error { return errors.Join(made.Close(), closeSource()) })
}

// ClientOf looks whether the S3 Encryption Client wrote an object that is open and begins with
// start.
func ClientOf(ctx context.Context, stored pikokms.Object, start []byte) (Client, error) {
	return clientOf(clientHeaderOf(ctx, stored, !header.Sniff(start)))
}

// BesideInstruction returns the key of the object that an instruction file is for.
func (p *Place) BesideInstruction(key string) (string, bool) {
	b, ok := p.objects.(*s3Objects)
	if !ok {
		return "", false
	}
	return b.instructions.object(key)
}

// Remove removes an object of a bucket of S3, if it is still the one that was opened.
func (s *Source) Remove(ctx context.Context) error {
	if s.remove == nil {
		return errors.New("nothing is removed there")
	}
	return OfStorage(s.remove(ctx))
}

func (b *s3Objects) remove(ctx context.Context, v *s3storage.Version) error {
	now, err := b.Stat(ctx, v.Key)
	if err == nil && aws.ToString(now.ETag) != aws.ToString(v.ETag) {
		err = pikokms.ErrChanged
	}
	if err == nil {
		err = b.Delete(ctx, v.Key)
	}
	return unnamed(err)
}

// AddInstructionSuffix adds the flag of what ends the names of instruction files.
func (o *Opener) AddInstructionSuffix(flags *pflag.FlagSet) {
	flags.StringVar(&o.Instruction, "instruction-suffix", s3ec.InstructionSuffix, "another `SUFFIX` of the instruction files of AWS's S3 Encryption Client")
}
