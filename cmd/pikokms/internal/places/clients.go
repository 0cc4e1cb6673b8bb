package places

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	azurepolicy "github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	"gocloud.dev/blob/azureblob"
	"gocloud.dev/blob/gcsblob"
	"gocloud.dev/gcp"
	"golang.org/x/oauth2/google"
	"google.golang.org/api/option"
)

// setRetries sets a client of S3 to repeat a request whose answer broke off, and to give up one
// that makes no progress.
func (o Opener) setRetries(client *s3.Options) {
	client.HTTPClient = idleClient{client.HTTPClient.Do, o.Timeout}
	client.Retryer = brokenAnswers{client.Retryer}
}

// brokenAnswers is an aws.Retryer that also retries a request whose answer broke off. The SDK would
// take such an answer for one that can't be parsed.
type brokenAnswers struct{ aws.Retryer }

func (r brokenAnswers) IsErrorRetryable(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || r.Retryer.IsErrorRetryable(err)
}

func (r brokenAnswers) GetAttemptToken(ctx context.Context) (func(error) error, error) {
	if v2, ok := r.Retryer.(aws.RetryerV2); ok {
		return v2.GetAttemptToken(ctx)
	}
	return r.GetInitialToken(), nil
}

// openBlob opens a bucket of gocloud.dev, as blob.OpenBucket does, with clients that give up a
// request that makes no progress.
func (o Opener) openBlob(ctx context.Context, u *url.URL) (*blob.Bucket, error) {
	switch u.Scheme {
	case gcsblob.Scheme:
		return o.openGCS(ctx, u)
	case azureblob.Scheme:
		opener := azureblob.URLOpener{MakeClient: o.newAzureClient, ServiceURLOptions: *azureblob.NewDefaultServiceURLOptions()}
		return opener.OpenBucketURL(ctx, u)
	}
	return blob.OpenBucket(ctx, u.String())
}

// openGCS opens a bucket with Application Default Credentials. An emulator, which the environment
// names as for Google's own clients, needs none.
func (o Opener) openGCS(ctx context.Context, u *url.URL) (*blob.Bucket, error) {
	var transport http.RoundTripper = idleClient{gcp.DefaultTransport().RoundTrip, o.Timeout}
	opener := gcsblob.URLOpener{Client: gcp.NewAnonymousHTTPClient(transport)}
	query := u.Query()
	isHTTP := !query.Has("grpc") && !query.Has("zonal") // gRPC has connections of its own
	if anonymous := query.Get("anonymous") == "true" || query.Get("access_id") == "-"; isHTTP && anonymous || os.Getenv("STORAGE_EMULATOR_HOST") != "" {
		query.Del("anonymous") // with these, gocloud.dev makes a client of its own
		query.Del("access_id")
		at := *u
		at.RawQuery = query.Encode()
		u = &at
		opener.Options.ClientOptions = []option.ClientOption{option.WithHTTPClient(&http.Client{Transport: transport})}
		return opener.OpenBucketURL(ctx, u)
	}
	credentials, err := gcp.DefaultCredentialsWithParams(ctx, google.CredentialsParams{UniverseDomain: query.Get("universe_domain")})
	if err != nil {
		return nil, fmt.Errorf("no Google credentials; log in with gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS: %w", err)
	}
	opener.TokenSource = gcp.CredentialsTokenSource(credentials)
	if opener.Client, err = gcp.NewHTTPClient(transport, opener.TokenSource); err != nil {
		return nil, err
	}
	domain, err := credentials.GetUniverseDomain()
	if err != nil {
		return nil, fmt.Errorf("the universe domain of the Google credentials: %w", err)
	}
	opener.Options.ClientOptions = []option.ClientOption{option.WithUniverseDomain(domain)}
	return opener.OpenBucketURL(ctx, u)
}

// newAzureClient takes credentials from the environment in the order that gocloud.dev documents in
// package azureblob.
func (o Opener) newAzureClient(service azureblob.ServiceURL, name azureblob.ContainerName) (*container.Client, error) {
	at, err := url.JoinPath(string(service), string(name))
	if err != nil {
		return nil, err
	}
	options := &container.ClientOptions{ClientOptions: azurepolicy.ClientOptions{Transport: idleClient{http.DefaultClient.Do, o.Timeout}}}
	account, key := os.Getenv("AZURE_STORAGE_ACCOUNT"), os.Getenv("AZURE_STORAGE_KEY")
	connection := os.Getenv("AZURE_STORAGE_CONNECTION_STRING")
	if connection == "" {
		connection = os.Getenv("AZURE_STORAGEBLOB_CONNECTIONSTRING")
	}
	switch {
	case account != "" && key != "":
		credential, err := azblob.NewSharedKeyCredential(account, key)
		if err != nil {
			return nil, err
		}
		return container.NewClientWithSharedKeyCredential(at, credential, options)
	case os.Getenv("AZURE_STORAGE_SAS_TOKEN") != "":
		return container.NewClientWithNoCredential(at, options)
	case connection != "":
		return container.NewClientFromConnectionString(connection, string(name), options)
	}
	credential, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		return nil, err
	}
	return container.NewClient(at, credential, options)
}
