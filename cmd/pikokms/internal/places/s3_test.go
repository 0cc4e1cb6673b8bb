package places

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
)

// TestAccessPoints gives the ARN of an access point in place of a bucket's name.
func TestAccessPoints(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	for text, want := range map[string][3]string{ // the bucket, the prefix and the key
		"s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine/prefix/":                           {"arn:aws:s3:eu-west-1:123456789012:accesspoint/mine", "prefix/", ""},
		"s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine":                                   {"arn:aws:s3:eu-west-1:123456789012:accesspoint/mine", "", ""},
		"s3://arn:aws:s3:eu-west-1:123456789012:accesspoint:mine/a/key":                             {"arn:aws:s3:eu-west-1:123456789012:accesspoint:mine", "", "a/key"},
		"s3://arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap/p/?region=eu-west-1":          {"arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap", "p/", ""},
		"s3://arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-1/accesspoint/mine/p/?profile=": {"arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-1/accesspoint/mine", "p/", ""},
	} {
		p, err := Opener{}.OpenBucket(t.Context(), text)
		require.NoError(t, err, text)
		b := p.objects.(*s3Objects)
		require.Equal(t, want, [3]string{b.bucket, b.prefix, p.Only})
		require.Equal(t, strings.TrimSuffix(strings.SplitN(text, "?", 2)[0], "/"), p.Name)
		ctx, cancel := context.WithCancel(t.Context())
		var host string
		_, _ = b.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &b.bucket}, func(o *s3.Options) {
			o.HTTPClient = roundTrip(func(r *http.Request) (*http.Response, error) {
				host = r.URL.Host
				return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Header: make(http.Header)}, nil
			})
		})
		cancel()
		require.Regexp(t, `accesspoint|s3-outposts`, host, text)
		require.Contains(t, host, "amazonaws.com")
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) Do(r *http.Request) (*http.Response, error) { return f(r) }
