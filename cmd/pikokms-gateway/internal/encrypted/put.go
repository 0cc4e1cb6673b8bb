package encrypted

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/s3api/utils"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/transfer"
)

// The names of the gateway's own metadata. All begin with ownPrefix.
const (
	ownPrefix    = "pikokms-"
	sealedName   = "pikokms-sealed"   // of the text of a sealed
	checksumName = "pikokms-checksum" // of the algorithm and the type of the checksum that is sealed
	partsName    = "pikokms-parts"    // of the sizes of an object's parts
	uploadName   = "pikokms-upload"   // of the ID of the upload that made an object
	keyName      = "pikokms-key"      // of the name of the object that an upload is for
)

// PutObject encrypts an object and stores it, if its length and all its checksums are right.
func (b *Backend) PutObject(ctx context.Context, in s3response.PutObjectInput) (s3response.PutObjectOutput, error) {
	out, err := b.putObject(ctx, in)
	return out, b.fail(ctx, "put", aws.ToString(in.Bucket), aws.ToString(in.Key), err)
}

func (b *Backend) putObject(ctx context.Context, in s3response.PutObjectInput) (out s3response.PutObjectOutput, err error) {
	if err := errors.Join(checkKey(in.Key), foreignMetadata(in.Metadata)); err != nil {
		return out, err
	}
	size := aws.ToInt64(in.ContentLength)
	stated := takeChecksum(&in)
	if stated.Algorithm == "" {
		stated.Algorithm = in.ChecksumAlgorithm
	}
	k, name, err := b.key(*in.Bucket, *in.Key)
	if err != nil {
		return out, err
	}
	if form, ok := in.Body.(utils.MpFileReader); ok { // only an upper bound of its size is known
		release, err := b.hold(ctx, &in.Body, form, &size)
		if err != nil {
			return out, err
		}
		defer release()
	}
	body, err := b.newContent(in.Body, size, stated)
	if err != nil {
		return out, err
	}
	if !body.known && !b.isFolder {
		if size <= maxBuffered && b.buffered.TryAcquire(size) {
			defer b.buffered.Release(size)
			if err := body.preread(); err != nil {
				return out, err
			}
		} else {
			body.kept = body.asked // at the price of a copy
		}
	}
	if size == 0 && strings.HasSuffix(*in.Key, "/") {
		return b.putFolder(ctx, in, body)
	}
	if (in.ObjectLockMode != "" || in.ObjectLockLegalHoldStatus != "") && !b.isFolder {
		return out, s3err.GetAPIError(s3err.ErrNotImplemented) // the backend behind would ignore it
	}
	stored, err := b.store(ctx, k, name, in, body, size)
	if err != nil {
		return out, err
	}
	body.sum.put(&stored.out)
	return stored.out, nil
}

// storedMessage is what was stored.
type storedMessage struct {
	out    s3response.PutObjectOutput
	header *header.Header
}

// store encrypts the content of an object and stores it, with the other fields of in.
func (b *Backend) store(ctx context.Context, k *Key, name string, in s3response.PutObjectInput, body *requestContent, size int64) (_ *storedMessage, err error) {
	ctx, dataKey := keepDataKey(ctx)
	defer func() { err = errors.Join(err, dataKey.Close()) }()
	encrypted, err := k.host.EncryptObject(ctx, name, body, k.pairs)
	if err != nil {
		return nil, err
	}
	length, err := message.EncryptedSize(encrypted.Header(), size)
	if err != nil {
		return nil, err
	}
	aead, err := dataKey.sealer(encrypted.Header())
	if err != nil {
		return nil, err
	}
	in.Metadata = maps.Clone(in.Metadata)
	if in.Metadata == nil {
		in.Metadata = make(map[string]string, 2)
	}
	in.Metadata = transfer.SetHeaderSize(in.Metadata, transfer.HeaderSizeKey, encrypted)
	in.Metadata[checksumName] = string(body.sum.Algorithm) + " " + string(body.sum.Type)
	sealSum := func() error {
		text, err := (&sealedMetadata{*body.sum}).seal(aead)
		in.Metadata[sealedName] = text
		return err
	}
	in.Body = watched{encrypted, b}
	switch {
	case body.known:
		if err := sealSum(); err != nil {
			return nil, err
		}
	case b.isFolder: // a folder takes the metadata after the content
		in.Body = &ending{in.Body, sealSum}
	case !body.kept:
		delete(in.Metadata, checksumName)
	}
	in.ContentLength, in.ContentMD5, in.ChecksumAlgorithm = &length, nil, ""
	if b.isFolder { // a folder makes a checksum of what it stores, for the ETag
		in.ChecksumAlgorithm = types.ChecksumAlgorithmXxhash128
	}
	takeChecksum(&in)
	in.IfMatch, in.IfNoneMatch = innerTag(in.IfMatch), innerTag(in.IfNoneMatch)
	var out s3response.PutObjectOutput
	switch {
	case body.kept:
		out, err = b.putAside(ctx, in, length, sealSum)
	case body.joined && length >= largeObject && !b.isFolder:
		out, err = b.putParts(ctx, in, length)
	default:
		out, err = b.inner.PutObject(ctx, in)
	}
	if body.err != nil {
		return nil, body.err // the inner backend may have wrapped it
	}
	if err != nil {
		return nil, err
	}
	takeChecksum(&out)
	known := description{size: size, tag: outerTag(&out.ETag)}
	if !isHidden(in.Key) { // a listing need not ask about what was put here
		known.algorithm, known.kind = checksumKind(in.Metadata)
		b.known.put(knownName(in.Bucket, in.Key, &out.ETag), known)
	}
	out.ETag, out.Size = *known.tag, &size
	return &storedMessage{out, encrypted.Header()}, nil
}

// putFolder stores a folder marker. It has no content, so there is nothing to encrypt, and a file
// system could not hold a message under such a name.
func (b *Backend) putFolder(ctx context.Context, in s3response.PutObjectInput, body *requestContent) (out s3response.PutObjectOutput, err error) {
	if _, err := io.Copy(io.Discard, body); err != nil {
		return out, err
	}
	in.Body, in.ContentMD5, in.ChecksumAlgorithm = strings.NewReader(""), nil, body.sum.Algorithm
	if !b.isFolder { // AWS's client can't compute each of them
		in.ChecksumAlgorithm = ""
		body.sum.put(&in)
	}
	in.IfMatch, in.IfNoneMatch = innerTag(in.IfMatch), innerTag(in.IfNoneMatch)
	out, err = b.inner.PutObject(ctx, in)
	if err != nil {
		return out, err
	}
	body.sum.put(&out)
	out.ETag = *outerTag(&out.ETag)
	return out, nil
}

// In front of S3, an object is held in memory until its checksum is known. AWS's programs send
// larger objects than 8 MiB in parts by default.
const (
	maxBuffered    = 8 << 20   // bytes of one
	maxAllBuffered = 128 << 20 // bytes of all
	formBuffered   = 1 << 20   // bytes of the beginning of a form's file
)

// hold replaces the body of a form by one of a known size. Other fields may follow the object in a
// form, so a small object is read to its end first. Nothing may follow a large one.
func (b *Backend) hold(ctx context.Context, body *io.Reader, form io.Reader, size *int64) (release func(), err error) {
	if err := b.buffered.Acquire(ctx, formBuffered); err != nil {
		return nil, err
	}
	release = func() { b.buffered.Release(formBuffered) }
	start, err := io.ReadAll(io.LimitReader(form, formBuffered))
	if err != nil {
		release()
		return nil, err
	}
	*body = bytes.NewReader(start)
	if len(start) < formBuffered {
		*size = int64(len(start))
	} else {
		*body = io.MultiReader(*body, form)
	}
	return release, nil
}

// ending calls end before it returns io.EOF, or the error of that.
type ending struct {
	io.Reader
	end func() error
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if err == io.EOF && e.end != nil {
		if failed := e.end(); failed != nil {
			err = failed
		}
		e.end = nil
	}
	return n, err
}

// foreignMetadata refuses a client's metadata under the gateway's own names.
func foreignMetadata(metadata map[string]string) error {
	for name := range metadata {
		if isOwn(name) {
			return s3err.APIError{Code: "InvalidArgument", Description: "Names of metadata that begin with " + ownPrefix + " are the gateway's own.", HTTPStatusCode: 400}
		}
	}
	return nil
}

func isOwn(name string) bool { return strings.HasPrefix(strings.ToLower(name), ownPrefix) }

// ownMetadata takes the gateway's own metadata out of an object's.
func ownMetadata(all map[string]string) (own, others map[string]string) {
	own, others = make(map[string]string), make(map[string]string, len(all))
	for name, value := range all {
		if isOwn(name) {
			own[strings.ToLower(name)] = value
		} else {
			others[name] = value
		}
	}
	return own, others
}

// tagSuffix is appended to the ETag of a stored object before clients see it. The ETag is computed
// from the ciphertext, so it shows nothing of the content, and equal contents have different ones.
// With the suffix it looks like that of an upload in parts, which no client takes for the MD5 of
// the content.
const tagSuffix = "-1"

// outerTag returns the ETag that clients see for a stored object's.
func outerTag(tag *string) *string {
	if aws.ToString(tag) == "" {
		return tag
	}
	return aws.String(`"` + strings.Trim(*tag, `"`) + tagSuffix + `"`)
}

// innerTag returns the ETag of a stored object for the one that clients see. If that is not one of
// this gateway's, it returns one that no object has.
func innerTag(tag *string) *string {
	text := aws.ToString(tag)
	if text == "" || text == "*" {
		return tag
	}
	inner, ok := strings.CutSuffix(strings.Trim(text, `"`), tagSuffix)
	if !ok {
		inner = "no-ETag-of-this-gateway"
	}
	return &inner
}

// bare returns an ETag without its quotes, as conditions have it.
func bare(tag *string) *string { return aws.String(strings.Trim(aws.ToString(tag), `"`)) }
