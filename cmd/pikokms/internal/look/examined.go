package look

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/pikov2"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/s3ec"
)

// The kinds of objects.
const (
	KindEncrypted = "encrypted"
	kindPikoV2    = "piko-v2"
	KindPlain     = "plain"
	kindDamaged   = "damaged"
	kindS3Client  = "s3-client" // AWS's S3 Encryption Client wrote it
	KindLeftOut   = "left-out"  // it is no object
)

// Object is what is known of an object without a key.
type Object struct {
	Name string
	Kind string // empty if it could not be read
	Size int64  // in bytes, as stored

	ModTime time.Time
	Report  *Report      // of a message whose header can be read
	Client  *s3ec.Header // of an object of AWS's S3 Encryption Client, but not of its instruction file
	Err     error        // why it is damaged or could not be read
}

// PlaintextSize returns the size of an object's plaintext, if it is known.
func (x *Object) PlaintextSize() (int64, bool) {
	switch {
	case x.Kind == KindPlain:
		return x.Size, true
	case x.Client != nil:
		return max(x.Client.PlaintextSize(), 0), x.Client.PlaintextSize() >= 0
	case x.Kind != KindEncrypted || x.Report.PlaintextSize == nil || len(x.Report.Transformers) > 0:
		return 0, false
	}
	return *x.Report.PlaintextSize, true
}

// Examine reads an object's header.
func Examine(ctx context.Context, p *places.Place, key string) *Object {
	x := &Object{Name: p.Title(key)}
	stored, err := p.Open(ctx, key)
	if err != nil {
		x.Err = err
		return x
	}
	x.ModTime = stored.ModTime()
	x.Look(ctx, stored)
	if err := stored.Close(); err != nil && x.Err == nil {
		x.Kind, x.Err = "", err
	}
	return x
}

// lookForClient looks whether the S3 Encryption Client wrote an object. It returns false if
// something else did.
func (x *Object) lookForClient(ctx context.Context, stored pikokms.Object) bool {
	start := make([]byte, header.SniffSize)
	n, err := stored.ReadAt(start, 0)
	if err != nil && err != io.EOF {
		return false // Look returns the error
	}
	c, err := places.ClientOf(ctx, stored, start[:n])
	switch {
	case err == nil && c.Header == nil && !c.IsInstruction:
		return false
	case err == nil:
		x.Kind, x.Client = kindS3Client, c.Header
	case errors.Is(err, provider.ErrInvalidCiphertext):
		x.Kind, x.Err = kindS3Client, err
	default:
		x.Err = err
	}
	return true
}

// Look reads the header of an object that is open.
func (x *Object) Look(ctx context.Context, stored pikokms.Object) {
	x.Size = stored.Size()
	if x.lookForClient(ctx, stored) {
		return
	}
	content := io.NewSectionReader(stored, 0, x.Size)
	start := make([]byte, header.SniffSize)
	n, err := content.ReadAt(start, 0)
	if err != nil && err != io.EOF {
		x.Err = err
		return
	}
	switch start = start[:n]; {
	case pikov2.Sniff(start):
		x.Kind = kindPikoV2
	case !header.Sniff(start):
		x.Kind = KindPlain
	default:
		r, sizeErr, err := Inspect(content, x.Size)
		x.Report, x.Err, x.Kind = r, sizeErr, KindEncrypted
		if err != nil {
			x.Err = err
		}
		if x.Err != nil {
			x.Kind = kindDamaged
		}
		if places.IsOfStorage(err) {
			x.Kind = ""
		}
	}
}

// KeyNames returns the provider ID and the name of the key that each data key of a message states.
func KeyNames(h *header.Header) []string {
	names := make([]string, len(h.EncryptedDataKeys))
	for i, k := range h.EncryptedDataKeys {
		names[i] = k.ProviderID + " " + message.KeyName(k)
	}
	return names
}

// IsUnder reports whether an object's header has the suite and the keys of h.
func (x *Object) IsUnder(h *header.Header) bool {
	if x.Kind != KindEncrypted || x.Report.Suite != h.Suite.String() {
		return false
	}
	names := make([]string, len(x.Report.EncryptedDataKeys))
	for i, k := range x.Report.EncryptedDataKeys {
		names[i] = k.ProviderID + " " + k.Key
	}
	return slices.Equal(names, KeyNames(h))
}

// HasPairs reports whether an object's header has an encryption context, except for the key of its
// signature.
func (x *Object) HasPairs(pairs map[string]string) bool {
	for name, value := range pairs {
		if stored, ok := x.Report.EncryptionContext[name]; name != header.PublicKeyName && (!ok || stored != value) {
			return false
		}
	}
	return true
}
