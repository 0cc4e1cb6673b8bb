package places

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	awsretry "github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// accessPoint matches the ARN of an access point, an Object Lambda access point or a Multi-Region
// Access Point, also on Outposts (Amazon S3 User Guide, "Referencing access points with ARNs,
// access point aliases, or virtual-hosted-style URIs").
var accessPoint = regexp.MustCompile(`\Aarn:[^:/?#]*:s3[^:/?#]*:[^:/?#]*:[^:/?#]*:(?:outpost[/:][^:/?#]+[/:])?accesspoint[/:][^:/?#]+`)

// s3Parameters are the parameters of S3 URLs. Those but request_payer are gocloud.dev's.
var s3Parameters = []string{
	"accelerate", "anonymous", "awssdk", "disable_https", "dualstack", "endpoint", "fips", "hostname_immutable", "kmskeyid", "profile",
	"rate_limiter_capacity", "region", "request_checksum_calculation", "request_payer", "response_checksum_validation", "role",
	"s3ForcePathStyle", "ssetype", "use_path_style",
}

// s3Client returns a client that is configured by the parameters of a URL.
func (o Opener) s3Client(ctx context.Context, u *url.URL) (*s3.Client, error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, console.Usage(fmt.Errorf("the parameters of the URL: %w", err))
	}
	if u.Host == "" {
		return nil, console.Usage(errors.New("the URL names no bucket"))
	}
	for name := range query {
		if !slices.Contains(s3Parameters, name) {
			return nil, console.Usage(fmt.Errorf("s3:// has no parameter %q; known are %s", name, strings.Join(s3Parameters, ", ")))
		}
	}
	var set s3Settings
	if err := set.parse(query); err != nil {
		return nil, console.Usage(err)
	}
	loaded, err := set.load(ctx, u.Host)
	if err != nil {
		return nil, err
	}
	return s3.NewFromConfig(loaded, set.apply, o.setRetries), nil
}

// s3Settings has the parameters of a URL.
type s3Settings struct {
	text map[string]string // of those that are used as they are

	pathStyle, disableHTTPS, accelerate, anonymous, dualStack, fips bool

	requesterPays bool
	rate          uint
	encryption    types.ServerSideEncryption
}

func (set *s3Settings) parse(query url.Values) error {
	set.text = make(map[string]string)
	for name := range query {
		set.text[name] = query.Get(name)
	}
	var immutable, legacy bool
	for name, value := range map[string]*bool{
		"hostname_immutable": &immutable, "use_path_style": &set.pathStyle, "s3ForcePathStyle": &legacy, "disable_https": &set.disableHTTPS,
		"accelerate": &set.accelerate, "anonymous": &set.anonymous, "dualstack": &set.dualStack, "fips": &set.fips,
	} {
		if text := set.text[name]; text != "" {
			var err error
			if *value, err = strconv.ParseBool(text); err != nil {
				return fmt.Errorf("%s is %q; give true or false", name, text)
			}
		}
	}
	set.pathStyle = set.pathStyle || legacy || immutable
	if endpoint := set.text["endpoint"]; endpoint != "" {
		if at, err := url.Parse(endpoint); err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" {
			return fmt.Errorf("endpoint is %q; give a URL such as https://s3.example.com", endpoint)
		}
	}
	if text := set.text["rate_limiter_capacity"]; text != "" {
		rate, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return fmt.Errorf("rate_limiter_capacity is %q; give a number", text)
		}
		set.rate = uint(rate)
	}
	for _, name := range []string{"request_checksum_calculation", "response_checksum_validation"} {
		if text := strings.ToLower(set.text[name]); text != "" && text != "when_supported" && text != "when_required" {
			return fmt.Errorf("%s is %q; give when_supported or when_required", name, text)
		}
	}
	if role := set.text["role"]; role != "" && !arn.IsARN(role) {
		return fmt.Errorf("role is %q; give its ARN", role)
	}
	if kind := set.text["ssetype"]; kind != "" {
		known := set.encryption.Values()
		i := slices.IndexFunc(known, func(k types.ServerSideEncryption) bool { return strings.EqualFold(string(k), kind) })
		if i < 0 {
			return fmt.Errorf("ssetype is %q; known are %v", kind, known)
		}
		set.encryption = known[i]
	}
	if set.requesterPays = set.text["request_payer"] == "requester"; !set.requesterPays && set.text["request_payer"] != "" {
		return fmt.Errorf("request_payer is %q; only requester is known", set.text["request_payer"])
	}
	return nil
}

// load returns the configuration that AWS's own tools would use for a bucket, changed by the
// parameters of the URL.
func (set *s3Settings) load(ctx context.Context, bucket string) (aws.Config, error) {
	var limit awsretry.RateLimiter = ratelimit.None
	if set.rate > 0 {
		limit = ratelimit.NewTokenRateLimit(set.rate)
	}
	options := []func(*config.LoadOptions) error{
		config.WithLogger(awskms.Logger),
		config.WithRetryer(func() aws.Retryer {
			return awsretry.NewStandard(func(o *awsretry.StandardOptions) { o.RateLimiter = limit })
		}),
	}
	region := set.text["region"]
	if point, err := arn.Parse(bucket); err == nil && region == "" {
		region = point.Region
	}
	if region != "" {
		options = append(options, config.WithRegion(region))
	}
	if profile := set.text["profile"]; profile != "" {
		options = append(options, config.WithSharedConfigProfile(profile))
	}
	if set.anonymous {
		options = append(options, config.WithCredentialsProvider(aws.AnonymousCredentials{}))
	}
	if set.dualStack {
		options = append(options, config.WithUseDualStackEndpoint(aws.DualStackEndpointStateEnabled))
	}
	if set.fips {
		options = append(options, config.WithUseFIPSEndpoint(aws.FIPSEndpointStateEnabled))
	}
	switch strings.ToLower(set.text["response_checksum_validation"]) {
	case "when_supported":
		options = append(options, config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenSupported))
	case "when_required":
		options = append(options, config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired))
	}
	switch strings.ToLower(set.text["request_checksum_calculation"]) {
	case "when_supported":
		options = append(options, config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenSupported))
	case "when_required":
		options = append(options, config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired))
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return loaded, err
	}
	if loaded.Region == "" {
		return loaded, console.Usage(errors.New("no Region is configured; give the bucket's as ?region=, or set AWS_REGION or the profile's region"))
	}
	if role := set.text["role"]; role != "" {
		loaded.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(loaded), role))
	}
	if set.anonymous {
		return loaded, nil
	}
	return loaded, checkCredentials(ctx, loaded.Credentials)
}

// credentialsTime is how long the source of credentials may take.
const credentialsTime = 10 * time.Second

// checkCredentials asks for credentials once, so that their absence is one error and not one for
// each object.
func checkCredentials(ctx context.Context, credentials aws.CredentialsProvider) error {
	bounded, cancel := context.WithTimeout(ctx, credentialsTime)
	defer cancel()
	_, err := credentials.Retrieve(bounded)
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case bounded.Err() != nil:
		return fmt.Errorf("%w: the source of the AWS credentials does not give them now: %w", provider.ErrProviderUnavailable, err)
	}
	return fmt.Errorf("no AWS credentials; set them in the environment, a profile or a role: %w", err)
}

// apply sets the options of a client.
func (set *s3Settings) apply(o *s3.Options) {
	if endpoint := set.text["endpoint"]; endpoint != "" {
		o.BaseEndpoint = &endpoint
	}
	o.UsePathStyle, o.UseAccelerate, o.EndpointOptions.DisableHTTPS = set.pathStyle, set.accelerate, set.disableHTTPS
	o.UseARNRegion = true
	o.DisableLogOutputChecksumValidationSkipped = true // it would be a line for each object without one
	if set.requesterPays {
		o.APIOptions = append(o.APIOptions, smithyhttp.SetHeaderValue("X-Amz-Request-Payer", "requester"))
	}
	if set.encryption != "" || set.text["kmskeyid"] != "" {
		o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
			return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("ServerSideEncryption", set.encrypt), middleware.Before)
		})
	}
}

// encrypt asks S3 for encryption at rest of objects that are put and have none of their own.
func (set *s3Settings) encrypt(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
	var key *string
	if id := set.text["kmskeyid"]; id != "" {
		key = &id
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
