package command

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	gcaws "gocloud.dev/aws"

	"piko.sh/pikokms/internal/awslog"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/s3storage"
)

// accessPoint matches the ARN of an access point, an Object Lambda access point or a Multi-Region
// Access Point, also on Outposts (Amazon S3 User Guide, "Referencing access points with ARNs, access
// point aliases, or virtual-hosted-style URIs").
var accessPoint = regexp.MustCompile(`\Aarn:[^:/?#]*:s3[^:/?#]*:[^:/?#]*:[^:/?#]*:(?:outpost[/:][^:/?#]+[/:])?accesspoint[/:][^:/?#]+`)

// configParameters are those of S3 URLs that gocloud.dev/aws has for every service of AWS.
var configParameters = []string{
	"region", "profile", "role", "anonymous", "dualstack", "fips", "rate_limiter_capacity",
	"request_checksum_calculation", "response_checksum_validation",
}

// s3Parameters are all parameters of S3 URLs. Those but request_payer are gocloud.dev's.
var s3Parameters = append([]string{
	"endpoint", "hostname_immutable", "use_path_style", "s3ForcePathStyle", "disable_https", "accelerate",
	"ssetype", "kmskeyid", "request_payer", "awssdk",
}, configParameters...)

// s3Client returns a client as the parameters of a URL say.
func s3Client(ctx context.Context, u *url.URL) (*s3.Client, []s3storage.Option, error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, nil, usageError{fmt.Errorf("the parameters of the URL: %w", err)}
	}
	if u.Host == "" {
		return nil, nil, usageError{errors.New("the URL names no bucket")}
	}
	for name := range query {
		if !slices.Contains(s3Parameters, name) {
			return nil, nil, usageError{fmt.Errorf("s3:// has no parameter %q; known are %s", name, strings.Join(slices.Sorted(slices.Values(s3Parameters)), ", "))}
		}
	}
	config, err := s3Config(ctx, u.Host, query)
	if err != nil {
		return nil, nil, err
	}
	var set s3Settings
	if err := set.parse(query); err != nil {
		return nil, nil, usageError{err}
	}
	var options []s3storage.Option
	switch payer := query.Get("request_payer"); payer {
	case "":
	case "requester":
		options = append(options, s3storage.WithRequesterPays())
	default:
		return nil, nil, usageError{fmt.Errorf("request_payer is %q; only requester is known", payer)}
	}
	return s3.NewFromConfig(config, set.apply), options, nil
}

// s3Config returns what AWS's own tools would use, but for what the URL says.
func s3Config(ctx context.Context, bucket string, query url.Values) (aws.Config, error) {
	shared := make(url.Values)
	for _, name := range configParameters {
		if query.Get(name) != "" {
			shared.Set(name, query.Get(name))
		}
	}
	if point, err := arn.Parse(bucket); err == nil && point.Region != "" && !shared.Has("region") {
		shared.Set("region", point.Region)
	}
	// The AWS SDK otherwise says on standard error of each object without a checksum that it has
	// none.
	if !shared.Has("response_checksum_validation") {
		shared.Set("response_checksum_validation", "when_required")
	}
	config, err := gcaws.V2ConfigFromURLParams(ctx, shared)
	if err != nil {
		return config, err
	}
	config.Logger = awslog.Logger
	if config.Region == "" {
		return config, usageError{errors.New("no Region is configured; give the bucket's as ?region=, or set AWS_REGION or the profile's region")}
	}
	if anonymous, _ := strconv.ParseBool(query.Get("anonymous")); anonymous {
		return config, nil
	}
	bounded, cancel := context.WithTimeout(ctx, defaultTimeout)
	defer cancel()
	if _, err = config.Credentials.Retrieve(bounded); err == nil || ctx.Err() != nil {
		return config, err
	}
	if bounded.Err() != nil {
		return config, fmt.Errorf("%w: the source of the AWS credentials does not give them now: %w", provider.ErrProviderUnavailable, err)
	}
	return config, fmt.Errorf("no AWS credentials; set them in the environment, a profile or a role: %w", err)
}

// s3Settings are what the parameters of a URL say of S3.
type s3Settings struct {
	endpoint                            string
	pathStyle, disableHTTPS, accelerate bool
	encryption                          types.ServerSideEncryption
	kmsKey                              string
}

func (set *s3Settings) parse(query url.Values) error {
	var immutable, legacy bool
	for name, value := range map[string]*bool{
		"hostname_immutable": &immutable, "use_path_style": &set.pathStyle, "s3ForcePathStyle": &legacy,
		"disable_https": &set.disableHTTPS, "accelerate": &set.accelerate,
	} {
		if text := query.Get(name); text != "" {
			var err error
			if *value, err = strconv.ParseBool(text); err != nil {
				return fmt.Errorf("%s is %q; give true or false", name, text)
			}
		}
	}
	set.pathStyle = set.pathStyle || legacy || immutable
	if set.endpoint = query.Get("endpoint"); set.endpoint != "" {
		if at, err := url.Parse(set.endpoint); err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" {
			return fmt.Errorf("endpoint is %q; give a URL such as https://s3.example.com", set.endpoint)
		}
	}
	if kind := query.Get("ssetype"); kind != "" {
		known := set.encryption.Values()
		i := slices.IndexFunc(known, func(k types.ServerSideEncryption) bool { return strings.EqualFold(string(k), kind) })
		if i < 0 {
			return fmt.Errorf("ssetype is %q; known are %v", kind, known)
		}
		set.encryption = known[i]
	}
	set.kmsKey = query.Get("kmskeyid")
	return nil
}

// apply sets the options of a client.
func (set *s3Settings) apply(o *s3.Options) {
	if set.endpoint != "" {
		o.BaseEndpoint = &set.endpoint
	}
	o.UsePathStyle, o.UseAccelerate, o.EndpointOptions.DisableHTTPS = set.pathStyle, set.accelerate, set.disableHTTPS
	o.UseARNRegion = true
	if set.encryption != "" || set.kmsKey != "" {
		o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
			return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("ServerSideEncryption", set.encrypt), middleware.Before)
		})
	}
}

// encrypt asks S3 for encryption at rest of objects that are put and have none of their own.
func (set *s3Settings) encrypt(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
	key := aws.String(set.kmsKey)
	if set.kmsKey == "" {
		key = nil
	}
	switch in := in.Parameters.(type) {
	case *s3.PutObjectInput:
		if in.ServerSideEncryption == "" {
			in.ServerSideEncryption, in.SSEKMSKeyId = set.encryption, key
		}
	case *s3.CreateMultipartUploadInput:
		if in.ServerSideEncryption == "" {
			in.ServerSideEncryption, in.SSEKMSKeyId = set.encryption, key
		}
	}
	return next.HandleInitialize(ctx, in)
}
