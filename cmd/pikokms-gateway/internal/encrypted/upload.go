package encrypted

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/uuid"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"

	"piko.sh/pikokms/message"
)

// An upload in parts lies in the bucket behind until it is completed, so that any gateway can go on
// with it:
//
//	.pikokms/uploads/ID/upload        the record: what the client said when it began
//	.pikokms/uploads/ID/parts/N.TRY   the content of part N
//	.pikokms/uploads/ID/done/N.TRY.…  an empty object, stored once that part is whole
//
// The record and the content of each part are messages of their own, each under its own data key.
// TRY differs each time that a part is sent, so nothing is ever sealed twice under one key. The
// name of the empty object ends with a description of the part, sealed under a key that is in the
// record, so that one listing describes all parts.
const uploadsPrefix = hiddenPrefix + "uploads/"

// record is what a client said when it began an upload.
type record struct {
	ID, Bucket, Key string
	Initiated       time.Time
	Secret          []byte // seals the descriptions of parts
	Algorithm       types.ChecksumAlgorithm
	Type            types.ChecksumType
	Put             s3response.PutObjectInput // the fields of the object besides its content
}

func folderOf(id string) string   { return uploadsPrefix + id + "/" }
func recordName(id string) string { return folderOf(id) + "upload" }

func partName(id string, number int32, try string) string {
	return fmt.Sprintf("%sparts/%05d.%s", folderOf(id), number, try)
}

// CreateMultipartUpload begins an upload in parts.
func (b *Backend) CreateMultipartUpload(ctx context.Context, in s3response.CreateMultipartUploadInput) (s3response.InitiateMultipartUploadResult, error) {
	out, err := b.createUpload(ctx, in)
	return out, b.fail(ctx, "create upload", aws.ToString(in.Bucket), aws.ToString(in.Key), err)
}

func (b *Backend) createUpload(ctx context.Context, in s3response.CreateMultipartUploadInput) (out s3response.InitiateMultipartUploadResult, err error) {
	if err := errors.Join(checkKey(in.Key), foreignMetadata(in.Metadata)); err != nil {
		return out, err
	}
	if strings.HasSuffix(*in.Key, "/") && b.isFolder {
		return out, s3err.GetAPIError(s3err.ErrDirectoryObjectContainsData)
	}
	k, name, err := b.key(*in.Bucket, *in.Key)
	if err != nil {
		return out, err
	}
	if _, err := backend.ParseObjectTags(aws.ToString(in.Tagging)); err != nil {
		return out, err
	}
	if in.ObjectLockMode != "" || in.ObjectLockLegalHoldStatus != "" {
		if !b.isFolder {
			return out, s3err.GetAPIError(s3err.ErrNotImplemented) // the backend behind would ignore it
		}
		if _, err := b.inner.GetObjectLockConfiguration(ctx, *in.Bucket); err != nil {
			return out, s3err.GetAPIError(s3err.ErrMissingObjectLockConfigurationNoSpaces)
		}
	}
	r := &record{
		ID: uuid.NewString(), Bucket: *in.Bucket, Key: name, Initiated: time.Now().UTC(), Secret: randomBytes(32),
		Algorithm: in.ChecksumAlgorithm, Type: in.ChecksumType,
		Put: s3response.PutObjectInput{
			ContentType: in.ContentType, ContentEncoding: in.ContentEncoding, ContentDisposition: in.ContentDisposition, ContentLanguage: in.ContentLanguage,
			CacheControl: in.CacheControl, Expires: in.Expires, WebsiteRedirectLocation: in.WebsiteRedirectLocation, Tagging: in.Tagging,
			ObjectLockRetainUntilDate: in.ObjectLockRetainUntilDate, ObjectLockMode: in.ObjectLockMode,
			ObjectLockLegalHoldStatus: in.ObjectLockLegalHoldStatus, Metadata: in.Metadata,
		},
	}
	text, err := json.Marshal(r)
	if err != nil {
		return out, err
	}
	size, own := int64(len(text)), recordName(r.ID)
	body, err := b.newContent(bytes.NewReader(text), size, checksum{})
	if err != nil {
		return out, err
	}
	_, err = b.store(ctx, k, own, s3response.PutObjectInput{
		Bucket: in.Bucket, Key: &own, Metadata: map[string]string{keyName: base64.RawURLEncoding.EncodeToString([]byte(name))},
	}, body, size)
	if err != nil {
		return out, err
	}
	return s3response.InitiateMultipartUploadResult{Bucket: *in.Bucket, Key: *in.Key, UploadId: r.ID}, nil
}

// knownRecord is a record that was used lately, so that a part needs no call of the key service for
// its upload.
type knownRecord struct {
	record *record
	seen   time.Time // when it was last known to be stored
}

const (
	maxRecords   = 1000
	recordsTrust = 10 * time.Second // another gateway may have completed the upload
)

// checkUpload checks a request about an upload. It returns the Key of the object, the object's
// name, and the upload's ID.
func (b *Backend) checkUpload(ctx context.Context, bucket, key, uploadID *string) (k *Key, name, id string, err error) {
	if err := checkKey(key); err != nil {
		return nil, "", "", err
	}
	id = strings.Clone(aws.ToString(uploadID))
	k, name, err = b.key(*bucket, *key)
	if err != nil {
		return nil, "", "", err
	}
	if _, err := uuid.Parse(id); err != nil || id != strings.ToLower(id) {
		if _, err := b.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: bucket}); err != nil {
			return nil, "", "", err
		}
		return nil, "", "", s3err.GetNoSuchUploadErr(id)
	}
	return k, name, id, nil
}

// record returns the record of an upload.
func (b *Backend) record(ctx context.Context, bucket, key, uploadID *string) (*record, *Key, error) {
	k, name, id, err := b.checkUpload(ctx, bucket, key, uploadID)
	if err != nil {
		return nil, nil, err
	}
	r, err := b.recordOf(ctx, *bucket, id)
	if isMissing(err) {
		return nil, nil, s3err.GetNoSuchUploadErr(id)
	}
	if err != nil {
		return nil, nil, err
	}
	if r.Bucket != *bucket || r.Key != name {
		return nil, nil, s3err.GetNoSuchUploadErr(id)
	}
	return r, k, nil
}

// label is what can be read of an upload's record without the key. Nothing authenticates it, so
// only listing and deleting rely on it.
type label struct {
	key     string // the object's name
	written time.Time
}

// labelOf returns the label of an upload.
func (b *Backend) labelOf(ctx context.Context, bucket, id string) (label, error) {
	name := recordName(id)
	out, err := b.inner.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &bucket, Key: &name, Range: aws.String("")})
	if err != nil {
		return label{}, err
	}
	key, err := keyOf(out.Metadata)
	return label{key, aws.ToTime(out.LastModified)}, err
}

// keyOf returns the name of the object that an upload is for, from the metadata of its record.
func keyOf(metadata map[string]string) (string, error) {
	own, _ := ownMetadata(metadata)
	key, err := base64.RawURLEncoding.DecodeString(own[keyName])
	if err != nil || len(key) == 0 {
		return "", errInvalid
	}
	return string(key), nil
}

// recordOf returns the record of an upload by its ID.
func (b *Backend) recordOf(ctx context.Context, bucket, id string) (_ *record, err error) {
	name := recordName(id)
	known, ok := b.records.get(id)
	if ok && known.record.Bucket == bucket {
		if time.Since(known.seen) < recordsTrust {
			return known.record, nil
		}
		if _, err := b.inner.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &bucket, Key: &name, Range: aws.String("")}); err == nil {
			b.records.put(id, knownRecord{known.record, time.Now()})
			return known.record, nil
		}
		b.records.drop(id)
	}
	out, err := b.inner.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &name, Range: aws.String("")})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, out.Body.Close()) }()
	key, err := keyOf(out.Metadata)
	if err != nil {
		return nil, err
	}
	k, _, err := b.key(bucket, key)
	if err != nil {
		return nil, err
	}
	content, _, err := k.decrypt(ctx, name, out.Body, aws.ToInt64(out.ContentLength))
	if err != nil {
		return nil, err
	}
	if read, ok := content.(*message.DecryptReader); !ok || read.Header() == nil { // plaintext, which may be allowed for objects
		return nil, errInvalid
	}
	var r record
	text, err := io.ReadAll(io.LimitReader(content, maxRecord))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, err
	}
	if r.ID != id || r.Bucket != bucket || r.Key != key { // one record was put in the place of another
		return nil, errInvalid
	}
	b.records.put(r.ID, knownRecord{&r, time.Now()})
	return &r, nil
}

// maxRecord bounds the size of a record. S3 takes 8 KB of headers.
const maxRecord = 1 << 20

func isMissing(err error) bool {
	answered, ok := errors.AsType[s3err.S3Error](err)
	return ok && answered.BaseError().Code == "NoSuchKey" || ok && answered.StatusCode() == 404 && answered.BaseError().Code != "NoSuchBucket"
}

// donePart is a part that was stored.
type donePart struct {
	number    int32
	try       string // also its ETag
	size      int64
	messageID []byte // of the part's message
	crc64     string // of its content
	checksum  checksum
	stored    time.Time
}

func (p *donePart) tag() *string { return aws.String(`"` + p.try + tagSuffix + `"`) }

// newTry returns a new name for the content of a part. Names sort by the time at which they were
// made.
func newTry() string {
	try := binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))
	return fmt.Sprintf("%x", append(try, randomBytes(8)...))
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func (r *record) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(r.Secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// doneName returns the name of the empty object that describes a part.
func (r *record) doneName(p *donePart) (string, error) {
	aead, err := r.aead()
	if err != nil {
		return "", err
	}
	crc64, err := base64.StdEncoding.DecodeString(p.crc64)
	if err != nil {
		return "", err
	}
	sum, err := base64.StdEncoding.DecodeString(p.checksum.Value)
	if err != nil {
		return "", err
	}
	// A file's name can have 255 bytes, so this is in binary.
	plain := binary.BigEndian.AppendUint64(nil, uint64(p.size))
	plain = append(plain, crc64...)
	plain = append(plain, p.messageID...)
	plain = append(plain, byte(slices.Index(algorithms, p.checksum.Algorithm)))
	plain = append(plain, sum...)
	start := fmt.Sprintf("%05d.%s", p.number, p.try)
	sealed := aead.Seal(nil, nil, plain, []byte(start))
	return folderOf(r.ID) + "done/" + start + "." + base64.RawURLEncoding.EncodeToString(sealed), nil
}

// parseDone returns the part that the empty object of this name describes.
func (r *record) parseDone(name string) (*donePart, error) {
	number, rest, _ := strings.Cut(strings.TrimPrefix(name, folderOf(r.ID)+"done/"), ".")
	try, text, _ := strings.Cut(rest, ".")
	aead, err := r.aead()
	if err != nil {
		return nil, err
	}
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nil, sealed, []byte(number+"."+try))
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil {
		return nil, err
	}
	const messageID, algorithm, sum = 16, 48, 49 // offsets
	if len(plain) < sum || int(plain[algorithm]) >= len(algorithms) {
		return nil, errInvalid
	}
	return &donePart{
		number: int32(n), try: try, size: int64(binary.BigEndian.Uint64(plain)),
		crc64: base64.StdEncoding.EncodeToString(plain[8:messageID]), messageID: plain[messageID:algorithm],
		checksum: checksum{Algorithm: algorithms[plain[algorithm]], Value: base64.StdEncoding.EncodeToString(plain[sum:])},
	}, nil
}

// parts returns the parts of an upload in the order of their numbers. Parts with one number are in
// the order in which they were stored.
func (b *Backend) parts(ctx context.Context, r *record) (all []*donePart, err error) {
	for object, err := range b.ownObjects(ctx, r.Bucket, folderOf(r.ID)+"done/") {
		if err != nil {
			return nil, err
		}
		p, err := r.parseDone(*object.Key)
		if err != nil {
			continue // no gateway put it there
		}
		p.stored = aws.ToTime(object.LastModified)
		all = append(all, p)
	}
	slices.SortStableFunc(all, func(x, y *donePart) int {
		if x.number != y.number {
			return int(x.number - y.number)
		}
		if c := x.stored.Compare(y.stored); c != 0 {
			return c
		}
		return strings.Compare(x.try, y.try)
	})
	return all, nil
}

// currentParts returns the part of each number that counts, which is the last one.
func currentParts(all []*donePart) (last []*donePart) {
	for i, p := range all {
		if i+1 == len(all) || all[i+1].number != p.number {
			last = append(last, p)
		}
	}
	return last
}

// ListParts lists the parts of an upload.
func (b *Backend) ListParts(ctx context.Context, in *s3.ListPartsInput) (s3response.ListPartsResult, error) {
	out, err := b.listParts(ctx, in)
	return out, b.fail(ctx, "list parts", aws.ToString(in.Bucket), aws.ToString(in.Key), err)
}

func (b *Backend) listParts(ctx context.Context, in *s3.ListPartsInput) (out s3response.ListPartsResult, err error) {
	marker := 0
	if text := aws.ToString(in.PartNumberMarker); text != "" {
		if marker, err = strconv.Atoi(text); err != nil {
			return out, s3err.GetInvalidArgMaxLimiter("part-number-marker", text)
		}
	}
	r, _, err := b.record(ctx, in.Bucket, in.Key, in.UploadId)
	if err != nil {
		return out, err
	}
	all, err := b.parts(ctx, r)
	if err != nil {
		return out, err
	}
	out = s3response.ListPartsResult{
		Bucket: *in.Bucket, Key: *in.Key, UploadID: r.ID, MaxParts: int(aws.ToInt32(in.MaxParts)), PartNumberMarker: marker,
		StorageClass: types.StorageClassStandard, ChecksumAlgorithm: r.Algorithm, ChecksumType: r.Type, Parts: []s3response.Part{},
	}
	if r.Type == "" { // as versitygw has it
		out.ChecksumAlgorithm, out.ChecksumType = "null", "null"
	}
	for _, p := range currentParts(all) {
		if int(p.number) <= marker {
			continue
		}
		if out.MaxParts > 0 && len(out.Parts) == out.MaxParts {
			out.IsTruncated = true
			break
		}
		part := s3response.Part{PartNumber: int(p.number), LastModified: p.stored, ETag: *p.tag(), Size: p.size}
		if r.Type != "" {
			p.checksum.put(&part)
		}
		out.Parts = append(out.Parts, part)
		out.NextPartNumberMarker = int(p.number)
	}
	return out, nil
}
