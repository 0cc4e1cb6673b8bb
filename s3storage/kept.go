package s3storage

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// Loss is something that an object has besides its content, and that a replacement cannot have.
type Loss struct {
	Kind   string // LossACL, LossChecksum, LossLock, LossMetadata or LossTags
	Reason string // what would be lost, or why that can't be known
}

// The kinds of losses.
const (
	LossACL      = "acl"      // an access control list that grants something to others than the owner
	LossChecksum = "checksum" // a checksum of an algorithm that the AWS SDK does not compute
	LossLock     = "lock"     // a lock that the caller may not read
	LossMetadata = "metadata" // user metadata that can't be in HTTP headers
	LossTags     = "tags"     // tags that the caller may not read
)

// ErrNotKept means that an object has something that its replacement could not have. The error
// names each loss by its kind.
var ErrNotKept = errors.New("a replacement could not keep all of it")

// kept is what a replacement of a version keeps, and what it can't keep.
type kept struct {
	in     s3.PutObjectInput
	losses []Loss
}

// refuse returns an error for the losses that s does not allow.
func (s *Storage) refuse(losses []Loss) error {
	var refused []string
	for _, loss := range losses {
		if !s.allowed[loss.Kind] {
			refused = append(refused, loss.Kind+": "+loss.Reason)
		}
	}
	if refused == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrNotKept, strings.Join(refused, "; "))
}

// NotKept returns what Replace could not keep of a version, whether the loss is allowed or not. It
// asks S3 what the version has. Replace then does not ask again.
func (s *Storage) NotKept(ctx context.Context, v *Version) ([]Loss, error) {
	k, err := v.originalIn(s).keep(ctx, true)
	if err != nil {
		return nil, s.failed("look at", v.Key, err)
	}
	return slices.Clone(k.losses), nil
}

// keep asks S3 what a replacement of o is to keep, and what it can't. It asks for the access
// control list only if acl is true, since that is never kept.
func (o *original) keep(ctx context.Context, acl bool) (*kept, error) {
	if o.kept != nil {
		return o.kept, nil
	}
	k := o.copied()
	if err := k.addTags(ctx, o); err != nil {
		return nil, fmt.Errorf("reading its tags: %w", err)
	}
	if err := k.addLock(ctx, o); err != nil {
		return nil, fmt.Errorf("reading its lock: %w", err)
	}
	if !acl {
		return k, nil
	}
	if err := k.addACL(ctx, o); err != nil {
		return nil, fmt.Errorf("reading its access control list: %w", err)
	}
	o.kept = k
	return k, nil
}

// copied returns what the answer to the GET already shows, without further requests.
func (o *original) copied() *kept {
	k := &kept{in: o.found.Kept}
	k.in.IfMatch = nil
	k.in.ChecksumAlgorithm = o.found.Checksum
	if n := o.found.MissingMeta; n > 0 {
		k.lose(LossMetadata, "%d of its metadata can't be in HTTP headers", n)
	}
	switch o.found.Checksum {
	case s3types.ChecksumAlgorithmMd5, s3types.ChecksumAlgorithmXxhash64, s3types.ChecksumAlgorithmXxhash3, s3types.ChecksumAlgorithmXxhash128:
		k.in.ChecksumAlgorithm = ""
		k.lose(LossChecksum, "its checksum is of the algorithm %s", o.found.Checksum)
	}
	return k
}

func (k *kept) lose(kind, format string, args ...any) {
	k.losses = append(k.losses, Loss{kind, fmt.Sprintf(format, args...)})
}

// features holds what is known about a bucket, so that S3 is asked once.
type features struct {
	tags, locks, acls feature
	newObjects        proof // that it honours the condition of PutNew
}

// feature records whether the objects of a bucket may have something. Until asked, they may.
type feature struct {
	mu    sync.Mutex
	asked bool
	none  bool
}

// possible asks once whether the bucket has the feature.
func (f *feature) possible(ask func() (bool, error)) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.asked && !f.none {
		possible, err := ask()
		if err != nil {
			return false, err
		}
		f.asked, f.none = true, !possible
	}
	return !f.none, nil
}

// ruleOut rules out the feature, since the service does not know it.
func (f *feature) ruleOut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.none = true
}

// unsupported reports whether err means that the bucket, or the service, does not have a feature.
// Some features have codes of their own for that.
func unsupported(err error, codes ...string) bool {
	return !isMissing(err) && (isStatus(err, http.StatusNotImplemented, http.StatusMethodNotAllowed) || isCode(err, codes...))
}

func denied(err error) bool { return isStatus(err, http.StatusForbidden) }

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// addTags asks for the tags. S3 states their number only to those who may read them.
func (k *kept) addTags(ctx context.Context, o *original) error {
	s := o.storage
	if possible, err := s.features.tags.possible(func() (bool, error) { return !isDirectory(s.bucket), nil }); !possible {
		return err
	}
	out, err := s.client.GetObjectTagging(ctx, &s3.GetObjectTaggingInput{Bucket: &s.bucket, Key: &o.key, VersionId: optional(o.id)})
	switch {
	case unsupported(err):
		s.features.tags.ruleOut()
		return nil
	case isCode(err, "NoSuchTagSet"):
		return nil
	case denied(err):
		k.lose(LossTags, "it may have tags, and the permission %s is missing", ofVersion("s3:GetObjectTagging", o.id))
		return nil
	case err != nil || len(out.TagSet) == 0:
		return err
	}
	tags := make(url.Values, len(out.TagSet))
	for _, tag := range out.TagSet {
		tags.Set(aws.ToString(tag.Key), aws.ToString(tag.Value))
	}
	k.in.Tagging = aws.String(tags.Encode())
	return nil
}

// ofVersion returns the name of a permission for a version of an object, if id is not empty. S3
// has separate permissions for versions.
func ofVersion(permission, id string) string {
	if id == "" {
		return permission
	}
	return strings.Replace(permission, "s3:GetObject", "s3:GetObjectVersion", 1)
}

// addLock asks for the retention and the legal hold where the GET did not state them, as it does to
// those who may read them. Only buckets with versions have locks.
func (k *kept) addLock(ctx context.Context, o *original) error {
	s := o.storage
	if o.id != "" && (k.in.ObjectLockMode == "" || k.in.ObjectLockLegalHoldStatus == "") {
		possible, err := s.features.locks.possible(func() (bool, error) { return s.mayLock(ctx) })
		if err != nil {
			return err
		}
		if possible {
			if err := k.askLock(ctx, o); err != nil {
				return err
			}
		}
	}
	// S3 refuses a lock that has ended.
	if until := k.in.ObjectLockRetainUntilDate; until != nil && !until.After(time.Now()) {
		k.in.ObjectLockMode, k.in.ObjectLockRetainUntilDate = "", nil
	}
	return nil
}

// mayLock reports whether the bucket may have locks. Without the permission to find out, it returns
// true, so S3 is asked about each object.
func (s *Storage) mayLock(ctx context.Context) (bool, error) {
	if isDirectory(s.bucket) {
		return false, nil
	}
	out, err := s.client.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &s.bucket})
	switch {
	case isCode(err, "ObjectLockConfigurationNotFoundError"):
		return false, nil
	case denied(err) || unsupported(err) || isStatus(err, http.StatusBadRequest): // access points do not answer
		return true, nil
	case err != nil:
		return false, err
	}
	return out.ObjectLockConfiguration != nil && out.ObjectLockConfiguration.ObjectLockEnabled == s3types.ObjectLockEnabledEnabled, nil
}

func (k *kept) askLock(ctx context.Context, o *original) error {
	s := o.storage
	var failures [2]error
	if k.in.ObjectLockMode == "" {
		out, err := s.client.GetObjectRetention(ctx, &s3.GetObjectRetentionInput{Bucket: &s.bucket, Key: &o.key, VersionId: &o.id})
		if err == nil && out.Retention != nil {
			k.in.ObjectLockMode, k.in.ObjectLockRetainUntilDate = s3types.ObjectLockMode(out.Retention.Mode), out.Retention.RetainUntilDate
		}
		failures[0] = err
	}
	if k.in.ObjectLockLegalHoldStatus == "" {
		out, err := s.client.GetObjectLegalHold(ctx, &s3.GetObjectLegalHoldInput{Bucket: &s.bucket, Key: &o.key, VersionId: &o.id})
		if err == nil && out.LegalHold != nil && out.LegalHold.Status == s3types.ObjectLockLegalHoldStatusOn {
			k.in.ObjectLockLegalHoldStatus = out.LegalHold.Status
		}
		failures[1] = err
	}
	for i, permission := range []string{"s3:GetObjectRetention", "s3:GetObjectLegalHold"} {
		switch err := failures[i]; {
		case err == nil || isCode(err, "NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError"):
		case unsupported(err, "InvalidRequest"): // the bucket has no locks
			s.features.locks.ruleOut()
		case denied(err):
			k.lose(LossLock, "it may be locked, and the permission %s is missing (s3:GetBucketObjectLockConfiguration shows whether the bucket has locks)", permission)
		case isGarbage(err):
			k.lose(LossLock, "it may be locked, and the service does not answer %s", strings.TrimPrefix(permission, "s3:"))
		default:
			return err
		}
	}
	return nil
}

// confirmLock checks whether an object that was put with a lock has it, and otherwise locks it.
// Some services forget the lock of an upload in parts.
func (s *Storage) confirmLock(ctx context.Context, key string, put *s3.PutObjectInput) error {
	if put.ObjectLockMode == "" && put.ObjectLockLegalHoldStatus != s3types.ObjectLockLegalHoldStatusOn {
		return nil
	}
	head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: &key})
	if err == nil && head.ObjectLockMode != put.ObjectLockMode {
		_, err = s.client.PutObjectRetention(ctx, &s3.PutObjectRetentionInput{
			Bucket: &s.bucket, Key: &key, VersionId: head.VersionId,
			Retention: &s3types.ObjectLockRetention{Mode: s3types.ObjectLockRetentionMode(put.ObjectLockMode), RetainUntilDate: put.ObjectLockRetainUntilDate},
		})
	}
	if err == nil && put.ObjectLockLegalHoldStatus == s3types.ObjectLockLegalHoldStatusOn && head.ObjectLockLegalHoldStatus != put.ObjectLockLegalHoldStatus {
		_, err = s.client.PutObjectLegalHold(ctx, &s3.PutObjectLegalHoldInput{
			Bucket: &s.bucket, Key: &key, VersionId: head.VersionId, LegalHold: &s3types.ObjectLockLegalHold{Status: put.ObjectLockLegalHoldStatus},
		})
	}
	if err != nil {
		return fmt.Errorf("it was replaced, but whether it is locked again is not known: %w", err)
	}
	return nil
}

// isGarbage reports whether err means that a service did not understand the request, and answered
// with something else, such as the object.
func isGarbage(err error) bool {
	_, ok := errors.AsType[*xml.SyntaxError](err)
	return ok
}

// addACL asks for the access control list, in a bucket that has them. It is always a loss, since it
// can't be put together with content, unless it only has the owner's grant, as every new object
// has.
func (k *kept) addACL(ctx context.Context, o *original) error {
	s := o.storage
	possible, err := s.features.acls.possible(func() (bool, error) { return s.mayGrant(ctx) })
	if !possible {
		return err
	}
	out, err := s.client.GetObjectAcl(ctx, &s3.GetObjectAclInput{Bucket: &s.bucket, Key: &o.key, VersionId: optional(o.id)})
	switch {
	case unsupported(err, "AccessControlListNotSupported"):
		s.features.acls.ruleOut()
		return nil
	case denied(err):
		k.lose(LossACL, "it may have an access control list, and the permission %s is missing (s3:GetBucketOwnershipControls shows whether the bucket has them)", ofVersion("s3:GetObjectAcl", o.id))
		return nil
	case err != nil:
		return err
	}
	others := 0
	for _, grant := range out.Grants {
		if grant.Grantee == nil || out.Owner == nil || grant.Permission != s3types.PermissionFullControl || aws.ToString(grant.Grantee.ID) != aws.ToString(out.Owner.ID) {
			others++
		}
	}
	if others > 0 {
		k.lose(LossACL, "its access control list has %d grants beside its owner's", others)
	}
	return nil
}

// mayGrant reports whether objects may have access control lists. Without the permission to find
// out, it returns true, so S3 is asked about each object.
func (s *Storage) mayGrant(ctx context.Context) (bool, error) {
	if isDirectory(s.bucket) {
		return false, nil
	}
	out, err := s.client.GetBucketOwnershipControls(ctx, &s3.GetBucketOwnershipControlsInput{Bucket: &s.bucket})
	switch {
	case isCode(err, "OwnershipControlsNotFoundError") || denied(err) || unsupported(err) || isStatus(err, http.StatusBadRequest):
		return true, nil
	case err != nil:
		return false, err
	}
	return out.OwnershipControls == nil || !slices.ContainsFunc(out.OwnershipControls.Rules, func(r s3types.OwnershipControlsRule) bool {
		return r.ObjectOwnership == s3types.ObjectOwnershipBucketOwnerEnforced
	}), nil
}
