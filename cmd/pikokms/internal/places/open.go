package places

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cloud.google.com/go/storage"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/idle"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/s3ec"
	"piko.sh/pikokms/s3storage"
)

// Opener opens places. Their operations fail when a storage makes no progress for Timeout.
type Opener struct {
	Timeout     time.Duration // how long a storage may make no progress; 0 is for ever
	Instruction string        // what ends the names of the S3 Encryption Client's instruction files
}

// openBlobs opens the bucket that gocloud.dev keeps in a folder, and returns the key of the one
// object that its URL names, if it names one.
func (o Opener) openBlobs(ctx context.Context, u *url.URL) (_ store, only string, err error) {
	at := *u
	if info, err := os.Stat(filepath.FromSlash(u.Path)); err == nil && !info.IsDir() {
		at.Path, only = filepath.Split(u.Path)
	}
	b := new(blobObjects)
	if b.bucket, err = o.openBlob(ctx, &at); err != nil {
		return nil, "", err
	}
	if only == "" {
		b.dir = folderOf(u)
	}
	return b, only, nil
}

// folderOf returns the folder with the objects of a bucket that gocloud.dev keeps in one. It is
// empty if the URL has a key, or a prefix that does not end in a slash.
func folderOf(u *url.URL) string {
	prefix := u.Query().Get("prefix")
	if u.Query().Has("key") || prefix != "" && !strings.HasSuffix(prefix, "/") {
		return ""
	}
	path := u.Path
	if u.Host == "." || os.PathSeparator != '/' { // as fileblob.URLOpener does
		path = strings.TrimPrefix(path, "/")
	}
	return filepath.Join(filepath.FromSlash(path), filepath.FromSlash(prefix))
}

// openCloud opens the bucket of a URL in GCS or Azure, and returns the key of the one object that
// it names, if it names one. Gocloud.dev reads the URL and finds credentials. It would change names
// and metadata, so objects are read and written by the cloud's own client, which it made.
func (o Opener) openCloud(ctx context.Context, u *url.URL) (_ store, only string, err error) {
	at := *u
	var prefix string
	prefix, only = keyOf(u)
	at.Path, at.RawPath = "", ""
	bucket, err := o.openBlob(ctx, &at)
	if err != nil {
		return nil, "", err
	}
	var az *container.Client
	var gcs *storage.Client
	switch {
	case bucket.As(&az):
		return &azureObjects{bucket: bucket, client: az, prefix: prefix}, only, nil
	case bucket.As(&gcs):
		return &gcsObjects{bucket: bucket, handle: gcs.Bucket(u.Host), prefix: prefix}, only, nil
	}
	return nil, "", errors.Join(errors.New("gocloud.dev gave no client of this cloud"), bucket.Close())
}

// OpenFolder opens a folder, or makes it.
func (o Opener) OpenFolder(path string) (*Place, error) {
	folder, err := folderstorage.New(path)
	if err != nil {
		return nil, err
	}
	limited := idle.Limit(folder, o.Timeout)
	return &Place{Name: path, objects: &folderObjects{limited, folder, path}}, nil
}

// schemes has the schemes of bucket URLs. Each has a function that opens the bucket of a URL, and
// returns the key of the one object that the URL names, if it names one.
var schemes = []struct {
	name string
	open func(o Opener, ctx context.Context, u *url.URL) (_ store, only string, err error)
}{
	{"s3", Opener.openS3}, {"gs", Opener.openCloud}, {"azblob", Opener.openCloud}, {"file", Opener.openBlobs},
}

// Open opens a place to read from: standard input, a file, a folder or a bucket.
func (o Opener) Open(ctx context.Context, text string) (*Place, error) {
	if text == "-" {
		return &Place{Name: "standard input"}, nil
	}
	if strings.Contains(text, "://") {
		return o.openSource(ctx, text)
	}
	info, err := os.Stat(text)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return &Place{Name: text, Path: text}, nil
	}
	return o.OpenFolder(text)
}

// openSource opens a bucket to read from. If there is no object of the name that its URL ends in,
// but some below that name, those are meant.
func (o Opener) openSource(ctx context.Context, text string) (*Place, error) {
	p, err := o.OpenBucket(ctx, text)
	if err != nil || p.Only == "" {
		return p, err
	}
	if _, err := p.objects.stat(ctx, p.Only); !errors.Is(err, fs.ErrNotExist) {
		return p, nil // any other error will come again when the object is read
	}
	u, err := parsePlace(text)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	folder, err := o.openURL(ctx, belowObject(u))
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	for _, err := range folder.objects.list(ctx, "") {
		if err == nil {
			return folder, p.Close()
		}
		break
	}
	return p, folder.Close()
}

// OpenBucket opens the bucket of a URL. A path without a slash at its end names one object.
func (o Opener) OpenBucket(ctx context.Context, text string) (*Place, error) {
	u, err := parsePlace(text)
	if err != nil {
		return nil, err
	}
	return o.openURL(ctx, u)
}

// belowObject returns the URL of what is below the name of an object.
func belowObject(u *url.URL) *url.URL {
	folder := *u
	folder.Path, folder.RawPath = u.Path+"/", ""
	return &folder
}

func (o Opener) openURL(ctx context.Context, u *url.URL) (*Place, error) {
	p := &Place{Name: strings.TrimSuffix(u.Scheme+"://"+u.Host+(&url.URL{Path: u.Path}).EscapedPath(), "/")}
	for _, scheme := range schemes {
		if scheme.name != u.Scheme {
			continue
		}
		var err error
		if p.objects, p.Only, err = scheme.open(o, ctx, u); err != nil {
			err = withoutQuery(err, u)
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	if u.Scheme != "file" {
		p.Prefix, _ = keyOf(u)
	}
	return p, nil
}

// parsePlace parses the URL of a bucket. In place of its name, the ARN of an access point of S3 may
// be the host, though it is none.
func parsePlace(text string) (*url.URL, error) {
	arn, rest := "", text
	if after, ok := strings.CutPrefix(text, "s3://"); ok {
		if arn = accessPoint.FindString(after); arn != "" {
			rest = "s3://" + strings.TrimPrefix(after, arn)
		}
	}
	u, err := provider.ParseURL(rest)
	if err != nil {
		return nil, console.Usage(fmt.Errorf("not a URL: %w", err))
	}
	if arn != "" {
		u.Host = arn
	}
	var known []string
	for _, scheme := range schemes {
		if scheme.name == u.Scheme {
			return u, nil
		}
		known = append(known, scheme.name)
	}
	return nil, console.Usage(fmt.Errorf("%q has the unknown scheme %q; known are %s", provider.RedactURL(u.String()), u.Scheme, strings.Join(known, ", ")))
}

// withoutQuery returns an error that shows no secret of a URL's parameters. Texts of gocloud.dev
// have all of a URL.
func withoutQuery(err error, u *url.URL) error {
	if u.RawQuery == "" || !strings.Contains(err.Error(), u.RawQuery) {
		return err
	}
	_, shown, _ := strings.Cut(provider.RedactURL(u.String()), "?")
	return errors.New(strings.ReplaceAll(err.Error(), u.RawQuery, shown))
}

// openS3 opens the bucket of a URL, and returns the key of the one object that it names, if it
// names one.
func (o Opener) openS3(ctx context.Context, u *url.URL) (_ store, only string, err error) {
	b := &s3Objects{bucket: u.Host}
	b.prefix, only = keyOf(u)
	if b.client, err = o.s3Client(ctx, u); err != nil {
		return nil, "", err
	}
	b.instructions.suffix = cmp.Or(o.Instruction, s3ec.InstructionSuffix)
	b.Storage = s3storage.New(b.client, b.bucket, s3storage.WithInstructionSuffix(b.instructions.suffix))
	return b, only, nil
}
