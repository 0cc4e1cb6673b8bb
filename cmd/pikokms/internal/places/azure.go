package places

import (
	"context"
	"crypto/fips140"
	"crypto/md5"
	"encoding/xml"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azurepolicy "github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	azure "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"gocloud.dev/blob"

	"piko.sh/pikokms"
	"piko.sh/pikokms/blobstorage"
	"piko.sh/pikokms/s3storage"
	"piko.sh/pikokms/transfer"
)

// azureObjects are the blobs of a container in Azure whose names begin with a prefix.
type azureObjects struct {
	bucket  *blob.Bucket // is only closed
	client  *container.Client
	prefix  string
	allowed allowedLosses
}

// errNotBlockBlob means that a replacement would change a blob's type. Programs could no longer
// append to an append blob, and a page blob is a disk.
var errNotBlockBlob = errors.New("a replacement would be a block blob, and it is none")

// azureSizeKey is transfer.HeaderSizeKey as gocloud.dev stores it in Azure.
const azureSizeKey = "pikokms__0x2d__header__0x2d__size"

func (b *azureObjects) Close() error { return b.bucket.Close() }

func (b *azureObjects) list(ctx context.Context, prefix string) iter.Seq2[Listed, error] {
	return func(yield func(Listed, error) bool) {
		prefix := b.prefix + prefix
		whole := wholeListing{prefix: prefix} // accounts with folders have an order of their own
		pager := b.client.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &prefix})
		for pager.More() {
			page, err := pager.NextPage(ctx)
			if err == nil && page.NextMarker != nil {
				err = whole.part("token " + *page.NextMarker)
			}
			if err != nil {
				yield(Listed{}, azureError(err))
				return
			}
			for i, item := range page.Segment.BlobItems {
				listed, err := b.listed(item)
				if i == 0 && err == nil {
					err = whole.part("name " + *item.Name)
				}
				if err == nil {
					err = whole.name(*item.Name)
				}
				if err != nil {
					yield(Listed{}, err)
					return
				}
				if !yield(listed, nil) {
					return
				}
			}
		}
	}
}

func (b *azureObjects) listed(item *container.BlobItem) (Listed, error) {
	if item.Name == nil || item.Properties == nil || item.Properties.ContentLength == nil {
		return Listed{}, fmt.Errorf("%w: a listing has a blob without a name or a size", blobstorage.ErrAnswer)
	}
	listed := Listed{Key: strings.TrimPrefix(*item.Name, b.prefix), Size: *item.Properties.ContentLength}
	// Accounts with a hierarchical namespace list their folders, too.
	if kind := item.Properties.ResourceType; kind != nil && *kind == "directory" {
		listed.Key += "/"
	}
	return listed, nil
}

func (b *azureObjects) page(ctx context.Context, folder string, token []byte, n int) (keys []Listed, next []byte, err error) {
	prefix, size, marker := b.prefix+folder, int32(n), string(token)
	options := container.ListBlobsHierarchyOptions{Prefix: &prefix, MaxResults: &size}
	if marker != "" {
		options.Marker = &marker
	}
	page, err := b.client.NewListBlobsHierarchyPager("/", &options).NextPage(ctx)
	if err != nil {
		return nil, nil, azureError(err)
	}
	for _, item := range page.Segment.BlobItems {
		listed, err := b.listed(item)
		if err != nil {
			return nil, nil, err
		}
		if !listed.IsMarker() {
			keys = append(keys, listed)
		}
	}
	for _, below := range page.Segment.BlobPrefixes {
		keys = append(keys, Listed{Key: strings.TrimPrefix(*below.Name, b.prefix)})
	}
	if page.NextMarker != nil {
		next = []byte(*page.NextMarker)
	}
	return keys, next, nil
}

func (b *azureObjects) blob(key string) *azure.Client { return b.client.NewBlobClient(b.prefix + key) }

func (b *azureObjects) stat(ctx context.Context, key string) (Listed, error) {
	p, err := b.blob(key).GetProperties(ctx, nil)
	if err != nil {
		return Listed{}, azureError(err)
	}
	return Listed{Key: key, Size: *p.ContentLength}, nil
}

func (b *azureObjects) open(ctx context.Context, key string) (pikokms.Object, error) {
	client := b.blob(key)
	first, err := client.DownloadStream(undecoded(ctx), &azure.DownloadStreamOptions{Range: azure.HTTPRange{Count: transfer.ProbeSize}})
	if bloberror.HasCode(err, bloberror.InvalidRange) { // it is empty
		p, err := client.GetProperties(ctx, nil)
		if err == nil && (p.ContentLength == nil || *p.ContentLength != 0 || p.LastModified == nil) {
			err = fmt.Errorf("%w: %s has no first bytes, and is not empty", blobstorage.ErrAnswer, key)
		}
		if err != nil {
			return nil, azureError(err)
		}
		return transfer.NewRangeObject(0, *p.LastModified, nil, nil), nil
	}
	if err != nil {
		return nil, azureError(err)
	}
	size, err := sizeOf(first.ContentRange, first.ContentLength)
	if err == nil && (first.ETag == nil || first.LastModified == nil) {
		err = fmt.Errorf("%w: it states neither an ETag nor a time", blobstorage.ErrAnswer)
	}
	if err != nil {
		return nil, errors.Join(err, first.Body.Close())
	}
	fetch := func(offset, length int64) (io.ReadCloser, error) {
		r, err := client.DownloadStream(undecoded(ctx), &azure.DownloadStreamOptions{
			Range: azure.HTTPRange{Offset: offset, Count: length}, AccessConditions: ifUnchanged(*first.ETag),
		})
		if isConditionFailure(err) {
			err = fmt.Errorf("%w: %w", pikokms.ErrChanged, err)
		}
		if err != nil {
			return nil, azureError(err)
		}
		return r.Body, nil
	}
	return newOpenObject(first.Body, size, *first.LastModified, fetch)
}

// sizeOf returns the size of an object, by the answer to a request for a range of it.
func sizeOf(contentRange *string, contentLength *int64) (int64, error) {
	switch {
	case contentRange != nil:
		_, size, _ := strings.Cut(*contentRange, "/")
		if n, err := strconv.ParseInt(size, 10, 64); err == nil && n >= 0 {
			return n, nil
		}
	case contentLength != nil:
		return *contentLength, nil // the whole object was sent
	}
	return 0, fmt.Errorf("%w: it does not state the size", blobstorage.ErrAnswer)
}

func ifUnchanged(etag azcore.ETag) *azure.AccessConditions {
	return &azure.AccessConditions{ModifiedAccessConditions: &azure.ModifiedAccessConditions{IfMatch: &etag}}
}

func (b *azureObjects) read(ctx context.Context, key string) (*opened, error) {
	client := b.blob(key)
	p, err := client.GetProperties(ctx, nil)
	if err == nil && (p.ContentLength == nil || p.ETag == nil || p.LastModified == nil) {
		err = fmt.Errorf("%w: it states no size, no ETag or no time", blobstorage.ErrAnswer)
	}
	if err != nil {
		return nil, azureError(err)
	}
	r, err := client.DownloadStream(undecoded(ctx), &azure.DownloadStreamOptions{AccessConditions: ifUnchanged(*p.ETag)})
	if err != nil {
		return nil, azureError(err)
	}
	a := &blob.Attributes{
		CacheControl: textOf(p.CacheControl), ContentDisposition: textOf(p.ContentDisposition), ContentEncoding: textOf(p.ContentEncoding),
		ContentLanguage: textOf(p.ContentLanguage), ContentType: textOf(p.ContentType), Metadata: make(map[string]string, len(p.Metadata)),
	}
	for name, value := range p.Metadata {
		a.Metadata[name] = textOf(value)
	}
	s := &opened{ReadCloser: r.NewRetryReader(undecoded(ctx), nil), Length: *p.ContentLength, ModTime: *p.LastModified, attributes: a, azure: &azureBlob{p, b.client, b.prefix + key}}
	var options *blockblob.UploadStreamOptions // once they are known
	var losses []s3storage.Loss
	keep := func(ctx context.Context) (err error) {
		if options == nil {
			options, losses, err = keepBlob(ctx, s.azure)
		}
		return azureError(err)
	}
	s.NotKept = func(ctx context.Context) ([]s3storage.Loss, error) {
		err := keep(ctx)
		return losses, err
	}
	s.Replace = func(ctx context.Context, content io.Reader) error {
		err := keep(ctx)
		if err == nil {
			err = b.allowed.Refuse(losses)
		}
		if err != nil {
			return err
		}
		options.AccessConditions = ifUnchanged(*p.ETag)
		return b.upload(ctx, key, s, content, options, pikokms.ErrChanged)
	}
	return s, nil
}

// keepBlob returns what a replacement of a blob in its place keeps, and what it can't keep.
func keepBlob(ctx context.Context, p *azureBlob) (*blockblob.UploadStreamOptions, []s3storage.Loss, error) {
	if p.BlobType != nil && *p.BlobType != azure.BlobTypeBlockBlob {
		return nil, nil, fmt.Errorf("%w: it is of type %s", errNotBlockBlob, *p.BlobType)
	}
	options, losses, err := likeBlob(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	if p.LegalHold != nil && *p.LegalHold || p.ImmutabilityPolicyMode != nil && p.ImmutabilityPolicyExpiresOn != nil {
		losses = append(losses, s3storage.Loss{Kind: s3storage.LossLock, Reason: "it has a legal hold or an immutability policy, which a new version could not have"})
	}
	if p.ContentMD5 != nil && fips140.Enforced() {
		losses = append(losses, s3storage.Loss{Kind: s3storage.LossChecksum, Reason: "it has an MD5 sum, which may not be computed in this FIPS mode"})
	}
	if p.ExpiresOn != nil {
		losses = append(losses, s3storage.Loss{Kind: LossTime, Reason: "it ends at a time of its own, " + p.ExpiresOn.String()})
	}
	return options, losses, nil
}

// likeBlob returns the options for a blob that has the tier, the encryption scope and the tags of
// another, and which of them can't be kept. p is nil if the source is not in Azure.
func likeBlob(ctx context.Context, p *azureBlob) (*blockblob.UploadStreamOptions, []s3storage.Loss, error) {
	var losses []s3storage.Loss
	options := new(blockblob.UploadStreamOptions)
	if p == nil {
		return options, nil, nil
	}
	// A tier that is inferred is the account's, and follows it.
	if p.AccessTier != nil && (p.AccessTierInferred == nil || !*p.AccessTierInferred) {
		tier := azure.AccessTier(*p.AccessTier)
		options.AccessTier = &tier
	}
	if p.EncryptionScope != nil && *p.EncryptionScope != "" {
		options.CPKScopeInfo = &azure.CPKScopeInfo{EncryptionScope: p.EncryptionScope}
	}
	if p.TagCount != nil && *p.TagCount > 0 {
		tags, err := p.container.NewBlobClient(p.name).GetTags(ctx, nil)
		switch {
		case isStatus(err, http.StatusForbidden):
			losses = append(losses, s3storage.Loss{Kind: s3storage.LossTags, Reason: "it has tags, and these credentials may not read them"})
		case err != nil:
			return nil, nil, fmt.Errorf("reading its tags: %w", err)
		}
		options.Tags = make(map[string]string, len(tags.BlobTagSet))
		for _, tag := range tags.BlobTagSet {
			options.Tags[textOf(tag.Key)] = textOf(tag.Value)
		}
	}
	return options, losses, nil
}

// azureMetadata returns the metadata for a new object.
func azureMetadata(ctx context.Context, from *opened, content io.Reader) (map[string]*string, error) {
	h := headersOf(from)
	h.Metadata = transfer.SetHeaderSize(h.Metadata, azureSizeKey, nil)
	storedNames := make(map[string]string)
	if from.azure != nil && len(h.Metadata) > 0 {
		var err error
		if storedNames, err = from.azure.metadataNames(ctx); err != nil {
			return nil, fmt.Errorf("reading the names of its metadata: %w", err)
		}
	}
	h.Metadata = transfer.SetHeaderSize(h.Metadata, azureSizeKey, content)
	metadata := make(map[string]*string, len(h.Metadata))
	for name, value := range h.Metadata {
		if stored, ok := storedNames[strings.ToLower(name)]; ok {
			name = stored
		}
		metadata[name] = &value
	}
	return metadata, nil
}

// metadataNames returns the names of a blob's metadata by their lower case. Programs may
// distinguish upper and lower case, but net/http changes the names in headers, and the client
// (v1.8.2) those in a listing. So this reads the text of a listing.
func (p *azureBlob) metadataNames(ctx context.Context) (map[string]string, error) {
	var answer *http.Response
	maxResults := int32(1)
	_, err := p.container.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{
		Prefix: &p.name, MaxResults: &maxResults, Include: container.ListBlobsInclude{Metadata: true},
	}).NextPage(azurepolicy.WithCaptureResponse(ctx, &answer))
	if err != nil {
		return nil, err
	}
	body, err := runtime.Payload(answer)
	if err != nil {
		return nil, err
	}
	var listing struct {
		Blobs []struct {
			Name     string
			Metadata struct {
				Pairs []struct{ XMLName xml.Name } `xml:",any"`
			}
		} `xml:"Blobs>Blob"`
	}
	if err := xml.Unmarshal(body, &listing); err != nil {
		return nil, err
	}
	names := make(map[string]string)
	for _, found := range listing.Blobs {
		if found.Name != p.name {
			continue // another blob, whose name begins with this one's
		}
		for _, pair := range found.Metadata.Pairs {
			names[strings.ToLower(pair.XMLName.Local)] = pair.XMLName.Local
		}
	}
	return names, nil
}

func (b *azureObjects) put(ctx context.Context, key string, from *opened, content io.Reader, replace bool) error {
	if replace { // which must not make a blob of another type a block blob
		p, err := b.blob(key).GetProperties(ctx, nil)
		switch {
		case err == nil && p.BlobType != nil && *p.BlobType != azure.BlobTypeBlockBlob:
			return fmt.Errorf("%w: what would be replaced is of type %s", errNotBlockBlob, *p.BlobType)
		case err != nil && !isStatus(err, http.StatusNotFound):
			return azureError(err)
		}
	}
	options, losses, err := likeBlob(ctx, from.azure)
	if err == nil {
		err = b.allowed.Refuse(losses)
	}
	if err != nil {
		return azureError(err)
	}
	if !replace {
		anyTag := azcore.ETagAny
		options.AccessConditions = &azure.AccessConditions{ModifiedAccessConditions: &azure.ModifiedAccessConditions{IfNoneMatch: &anyTag}}
	}
	return b.upload(ctx, key, from, content, options, fs.ErrExist)
}

// Blocks that are uploaded side by side.
const (
	azureBlock  = 8 << 20
	azureAtOnce = 5
)

// upload stores content. If a condition does not hold, the error holds refused.
func (b *azureObjects) upload(ctx context.Context, key string, from *opened, content io.Reader, options *blockblob.UploadStreamOptions, refused error) error {
	var err error
	if options.Metadata, err = azureMetadata(ctx, from, content); err != nil {
		return azureError(err)
	}
	h := headersOf(from)
	options.HTTPHeaders = &azure.HTTPHeaders{
		BlobCacheControl: &h.CacheControl, BlobContentDisposition: &h.ContentDisposition, BlobContentEncoding: &h.ContentEncoding,
		BlobContentLanguage: &h.ContentLanguage, BlobContentType: &h.ContentType,
	}
	options.BlockSize, options.Concurrency = max(azureBlock, int64(transfer.PartSize(from.Length))), azureAtOnce
	sent, isSent := transfer.Remember(content)
	err = transfer.Upload(ctx, sent, func(ctx context.Context, sent io.Reader) error {
		if from.azure != nil && from.azure.ContentMD5 != nil && !fips140.Enforced() {
			sent = &summed{sent, md5.New(), options.HTTPHeaders}
		}
		answer, err := b.client.NewBlockBlobClient(b.prefix+key).UploadStream(ctx, sent, options)
		if err == nil && answer.ETag == nil {
			err = fmt.Errorf("%w: no ETag follows the upload, so whether the object is stored is unknown", blobstorage.ErrAnswer)
		}
		return err
	})
	stored := func() (io.ReadCloser, error) {
		r, err := b.blob(key).DownloadStream(undecoded(ctx), nil)
		return r.Body, err
	}
	if (isConditionFailure(err) || IsTransient(err)) && isSent(stored) {
		return nil // it is stored: its answer was lost, and only its repetition was refused
	}
	if isConditionFailure(err) {
		err = fmt.Errorf("%w: %w", refused, err)
	}
	return azureError(err)
}

// summed sets a header to the MD5 sum of what it reads, once it has read all. The request that
// sends the header comes after that.
type summed struct {
	io.Reader
	sum     hash.Hash
	headers *azure.HTTPHeaders
}

func (s *summed) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	_, _ = s.sum.Write(p[:max(0, min(n, len(p)))]) // never fails
	if err == io.EOF {
		s.headers.BlobContentMD5 = s.sum.Sum(nil)
	}
	return n, err
}

func textOf(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

// isConditionFailure reports whether Azure did not do something because of a condition.
func isConditionFailure(err error) bool {
	return bloberror.HasCode(err, bloberror.ConditionNotMet, bloberror.TargetConditionNotMet, bloberror.BlobAlreadyExists)
}

func isStatus(err error, status int) bool {
	answer, ok := errors.AsType[*azcore.ResponseError](err)
	return ok && answer.StatusCode == status
}

// azureError returns an error on one line. It holds fs.ErrNotExist if there is no such blob.
func azureError(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if answer, ok := errors.AsType[*azcore.ResponseError](err); ok {
		line := fmt.Sprintf("Azure: %d %s", answer.StatusCode, answer.ErrorCode)
		if said := messageIn(answer); said != "" {
			line += ": " + said
		}
		text = strings.Replace(text, answer.Error(), line, 1)
	}
	if bloberror.HasCode(err, bloberror.BlobNotFound) {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return &oneLine{joinLines(text), err}
}

// messageIn returns the first line of the message in Azure's answer, if it has a body.
func messageIn(answer *azcore.ResponseError) string {
	if answer.RawResponse == nil || answer.RawResponse.Body == nil {
		return ""
	}
	body, err := runtime.Payload(answer.RawResponse)
	var said struct{ Message string }
	if err != nil || xml.Unmarshal(body, &said) != nil {
		return ""
	}
	line, _, _ := strings.Cut(strings.TrimSpace(said.Message), "\n")
	return strings.TrimSpace(line)
}

func (b *azureObjects) setWriting(w Writing) { b.allowed = w.Allowed }
