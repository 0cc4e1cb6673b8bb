package main_test

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms-batch/internal/runtimeapi"
	"piko.sh/pikokms/kmstest"
)

// answer is an answer of a service of AWS, and the code of the task that meets it.
type answer struct {
	status  int
	code    string
	message string
	want    string
}

const (
	later = "TemporaryFailure"
	never = "PermanentFailure"
)

// s3Answers are S3's (Amazon S3 API Reference, "Error responses"), as far as reading an object and
// replacing it can meet them.
var s3Answers = []answer{
	{400, "ExpiredToken", "", later}, {400, "TokenRefreshRequired", "", later}, {400, "InvalidToken", "", later},
	{403, "InvalidAccessKeyId", "", later}, {403, "InvalidSecurity", "", later}, {403, "UnrecognizedClientException", "", later},
	{403, "RequestTimeTooSkewed", "", later}, {403, "RequestExpired", "", later},
	{400, "RequestTimeout", "", later}, {400, "IncompleteBody", "", later}, {400, "BadDigest", "", later}, {400, "InvalidPart", "", later},
	{400, "XAmzContentSHA256Mismatch", "", later}, {400, "XAmzContentChecksumMismatch", "", later}, {307, "TemporaryRedirect", "", later}, {307, "Redirect", "", later},
	{409, "OperationAborted", "", later}, {409, "ConditionalRequestConflict", "", later},
	{500, "InternalError", "", later}, {502, "BadGateway", "", later}, {503, "SlowDown", "", later}, {503, "ServiceUnavailable", "", later}, {503, "Busy", "", later},
	{504, "GatewayTimeout", "", later}, {429, "TooManyRequests", "", later}, {408, "RequestTimeout", "", later}, {400, "ThrottlingException", "", later}, {400, "RequestLimitExceeded", "", later},
	{400, "KMS.ThrottlingException", "", later}, {400, "KMS.KMSInternalException", "", later}, {400, "KMS.DependencyTimeoutException", "", later},
	{400, "KMS.KeyUnavailableException", "", later}, {400, "KMS.UnrecognizedClientException", "", later},

	{501, "NotImplemented", "", never}, {505, "HTTPVersionNotSupported", "", never},
	{403, "AccessDenied", "", never}, {403, "AllAccessDisabled", "", never}, {403, "AccountProblem", "", never}, {403, "InvalidPayer", "", never}, {403, "NotSignedUp", "", never},
	{403, "SignatureDoesNotMatch", "", never}, {400, "AuthorizationHeaderMalformed", "", never}, {400, "AuthorizationQueryParametersError", "", never},
	{400, "CredentialsNotSupported", "", never}, {403, "CrossLocationLoggingProhibited", "", never}, {403, "MissingAuthenticationToken", "", never},
	{403, "InvalidObjectState", "", never}, {400, "InvalidRequest", "", never}, {400, "InvalidArgument", "", never}, {400, "InvalidBucketName", "", never}, {400, "KeyTooLongError", "", never},
	{400, "InvalidURI", "", never}, {400, "InvalidTag", "", never}, {400, "InvalidStorageClass", "", never}, {400, "InvalidEncryptionAlgorithmError", "", never},
	{400, "MetadataTooLarge", "", never}, {400, "RequestHeaderSectionTooLarge", "", never}, {400, "EntityTooLarge", "", never}, {400, "EntityTooSmall", "", never},
	{400, "MalformedXML", "", never}, {400, "MissingRequestBodyError", "", never}, {411, "MissingContentLength", "", never}, {400, "IllegalLocationConstraintException", "", never},
	{301, "PermanentRedirect", "", never}, {405, "MethodNotAllowed", "", never}, {404, "NoSuchBucket", "", never},
	{400, "KMS.DisabledException", "", never}, {400, "KMS.NotFoundException", "", never}, {400, "KMS.KMSInvalidStateException", "", never},
}

// s3Readings are answers to reads. To a PUT they would mean that the object was replaced or
// deleted, which another attempt sees.
var s3Readings = []answer{{404, "NoSuchKey", "", never}, {404, "NoSuchVersion", "", never}, {416, "InvalidRange", "", never}}

var s3Writings = []answer{{404, "NoSuchKey", "", later}, {404, "NoSuchUpload", "", later}, {412, "PreconditionFailed", "", later}}

// kmsAnswers are those of KMS to GenerateDataKey (AWS KMS API Reference, that operation and "Common
// Error Types").
var kmsAnswers = []answer{
	{400, "ExpiredTokenException", "", later}, {403, "ExpiredToken", "", later}, {403, "UnrecognizedClientException", "", later}, {403, "InvalidClientTokenId", "", later},
	{400, "RequestExpired", "", later}, {403, "RequestTimeTooSkewed", "", later}, {400, "InvalidSignatureException", "Signature expired: 20261130T120000Z is now earlier than 20261130T121500Z", later},
	{400, "InvalidSignatureException", "Signature not yet current: 20261130T130000Z is still later than 20261130T121500Z", later},
	{400, "ThrottlingException", "", later}, {400, "LimitExceededException", "", later}, {400, "RequestAbortedException", "", later}, {408, "RequestTimeoutException", "", later},
	{500, "KMSInternalException", "", later}, {500, "InternalFailure", "", later}, {503, "ServiceUnavailable", "", later}, {503, "DependencyTimeoutException", "", later},
	{500, "KeyUnavailableException", "", later},

	{501, "NotImplementedException", "", never},
	{400, "AccessDeniedException", "", never}, {401, "NotAuthorized", "", never}, {403, "OptInRequired", "", never}, {403, "IncompleteSignature", "", never},
	{400, "InvalidSignatureException", "The request signature we calculated does not match the signature you provided", never}, {403, "MissingAuthenticationToken", "", never},
	{400, "NotFoundException", "", never}, {400, "DisabledException", "", never}, {400, "InvalidKeyUsageException", "", never}, {400, "KMSInvalidStateException", "it is pending deletion", never},
	{400, "InvalidGrantTokenException", "", never}, {400, "DryRunOperationException", "", never}, {400, "ValidationError", "", never}, {400, "InvalidArnException", "", never},
	{413, "RequestEntityTooLargeException", "", never},
}

// dynamoDBAnswers are DynamoDB's to GetItem (Amazon DynamoDB Developer Guide, "Error handling with
// DynamoDB").
var dynamoDBAnswers = []answer{
	{400, "ExpiredTokenException", "", later}, {400, "UnrecognizedClientException", "", later}, {400, "InvalidSignatureException", "Signature expired: it is late", later},
	{400, "ProvisionedThroughputExceededException", "", later}, {400, "RequestLimitExceeded", "", later}, {400, "ThrottlingException", "", later},
	{500, "InternalServerError", "", later}, {503, "ServiceUnavailable", "", later}, {400, "TransactionConflictException", "", later},

	{501, "NotImplemented", "", never},
	{400, "AccessDeniedException", "", never}, {400, "IncompleteSignatureException", "", never}, {400, "InvalidSignatureException", "it does not match", never},
	{400, "MissingAuthenticationTokenException", "", never}, {400, "ResourceNotFoundException", "", never}, {400, "ValidationException", "", never},
	{400, "KMSAccessDeniedException", "", never},
}

// stsAnswers are those of the service that gives credentials (AWS STS API Reference,
// AssumeRoleWithWebIdentity).
var stsAnswers = []answer{
	{400, "ExpiredTokenException", "", later}, {400, "IDPCommunicationError", "", later}, {400, "Throttling", "", later}, {500, "InternalFailure", "", later},
	{403, "AccessDenied", "", never}, {403, "IDPRejectedClaim", "", never}, {400, "InvalidIdentityToken", "", never}, {403, "RegionDisabledException", "", never},
}

// oneObject is an S3 in which each key has the same content. It fails a request whose method begins
// the key, in the way that the rest of the key names.
func oneObject(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		parts := strings.Split(key, "/")
		switch {
		case r.URL.Query().Has("tagging"):
			_, _ = io.WriteString(w, "<Tagging><TagSet></TagSet></Tagging>")
		case r.URL.Query().Has("ownershipControls"):
			_, _ = io.WriteString(w, "<OwnershipControls><Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule></OwnershipControls>")
		case parts[0] == r.Method:
			var status int
			_, _ = fmt.Sscan(parts[1], &status)
			w.WriteHeader(status)
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>a fault</Message></Error>", parts[2])
		case r.Method == http.MethodHead && strings.Contains(key, "+") || strings.HasSuffix(key, ".instruction"):
			w.WriteHeader(http.StatusNotFound)
		default:
			w.Header().Set("ETag", `"5d41402abc4b2a76b9719d911017c592"`)
			if r.Method != http.MethodPut {
				w.Header().Set("Content-Length", "5")
				_, _ = io.WriteString(w, "hello")
			}
		}
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

// failing returns the URL of a service whose requests fail.
func failing(t *testing.T, answer func(w http.ResponseWriter, r *http.Request)) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(answer))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

// TestCodes makes S3, KMS, DynamoDB and STS answer with each of their error codes. A task is
// temporary if another attempt, or another instance of the function, may succeed, and permanent
// otherwise.
func TestCodes(t *testing.T) {
	binary := bootstrap(t)
	storage := oneObject(t)
	kms := kmstest.NewServer(t)
	key := kms.CreateKey(kmstest.Key{})
	keyURL := "awskms:///" + key.ARN + "?endpoint=" + url.QueryEscape(kms.URL)

	type asked struct {
		service, key string
		answer
		settings map[string]string
	}
	var cases []asked
	for method, answers := range map[string][]answer{"GET": append(s3Readings, s3Answers...), "PUT": append(s3Writings, s3Answers...)} {
		for _, a := range answers {
			if method == "PUT" && a.code == "MethodNotAllowed" {
				continue
			}
			cases = append(cases, asked{"S3 " + method, fmt.Sprintf("%s/%d/%s", method, a.status, a.code), a, nil})
		}
	}
	for i, a := range kmsAnswers {
		name := fmt.Sprintf("kms %d", i)
		cases = append(cases, asked{"KMS", name, a, nil})
		kms.Inject(kmstest.Fault{When: func(r kmstest.Request) bool { return r.EncryptionContext[pikokms.PairObject] == name }, Do: kmstest.Body(a.status, "application/x-amz-json-1.1", fmt.Sprintf(`{"__type":%q,"message":%q}`, a.code, cmp.Or(a.message, "a fault")))})
	}
	table := failing(t, func(w http.ResponseWriter, r *http.Request) {
		var i int
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &i)
		a := dynamoDBAnswers[i]
		w.Header().Set("Content-Type", "application/x-amz-json-1.0")
		w.WriteHeader(a.status)
		fmt.Fprintf(w, `{"__type":"com.amazonaws.dynamodb.v20120810#%s","message":%q}`, a.code, cmp.Or(a.message, "a fault"))
	})
	for i, a := range dynamoDBAnswers {
		branchKey := "branchkey://keys/tenant?key=" + url.QueryEscape(key.ARN) + "&kms-endpoint=" + url.QueryEscape(kms.URL) + "&table-endpoint=" + url.QueryEscape(fmt.Sprintf("%s/%d", table, i))
		cases = append(cases, asked{"DynamoDB", "dynamodb", a, map[string]string{"PIKOKMS_KEY": branchKey}})
	}
	tokens := failing(t, func(w http.ResponseWriter, r *http.Request) {
		var i int
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &i)
		w.WriteHeader(stsAnswers[i].status)
		fmt.Fprintf(w, `<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>a fault</Message></Error></ErrorResponse>`, stsAnswers[i].code)
	})
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte("a.b.c"), 0o600))
	for i, a := range stsAnswers {
		cases = append(cases, asked{"STS", "sts", a, map[string]string{
			"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/r", "AWS_WEB_IDENTITY_TOKEN_FILE": token,
			"AWS_ENDPOINT_URL_STS": fmt.Sprintf("%s/%d", tokens, i),
		}})
	}

	// Sandboxes are slow to start, so cases share one, unless they have settings of their own.
	shared := make(chan *runtimeapi.Sandbox, 6)
	settings := map[string]string{"PIKOKMS_JOB": "encrypt", "PIKOKMS_KEY": keyURL, "PIKOKMS_BIND_OBJECT_NAMES": "photos", "AWS_MAX_ATTEMPTS": "2"}
	for range cap(shared) {
		sandbox, _ := start(t, binary, storage, settings)
		shared <- sandbox
	}
	var working errgroup.Group
	working.SetLimit(cap(shared))
	failures := make([]string, len(cases))
	for i, c := range cases {
		working.Go(func() error {
			common := <-shared
			defer func() { shared <- common }()
			sandbox := common
			// A success in between keeps the circuit breaker closed.
			tasks := []task{{bucket: "photos", key: "fine"}, {bucket: "photos", key: c.key}}
			if c.settings != nil {
				own := maps.Clone(settings)
				maps.Copy(own, c.settings)
				sandbox, _ = start(t, binary, storage, own)
			}
			results, err := tryInvoke(sandbox, request(tasks...), minute)
			if err != nil {
				return err
			}
			if got := results[1]; got.ResultCode != c.want {
				failures[i] = fmt.Sprintf("%s %d %s is %s: %s", c.service, c.status, c.code, got.ResultCode, got.ResultString)
			} else if !strings.Contains(got.ResultString, c.code) {
				failures[i] = fmt.Sprintf("%s %d %s does not reach the task: %s", c.service, c.status, c.code, got.ResultString)
			}
			return nil
		})
	}
	require.NoError(t, working.Wait())
	t.Logf("%d answers", len(cases))
	for _, failure := range failures {
		if failure != "" {
			t.Error(failure)
		}
	}
}
