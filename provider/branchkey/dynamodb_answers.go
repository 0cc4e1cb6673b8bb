package branchkey

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"piko.sh/pikokms/provider"
)

// maxAnswer bounds an answer of DynamoDB in bytes. A page of items has at most 1 MB of them (Amazon
// DynamoDB API Reference, "Query"), which JSON makes longer.
const maxAnswer = 16 << 20

// checkingAnswers returns a client that refuses answers that can't be DynamoDB's, whoever made the
// client. The AWS SDK takes an empty page for an item that is not there, or for one that was
// written.
func checkingAnswers(client *dynamodb.Client) *dynamodb.Client {
	options := client.Options()
	options.HTTPClient = &answers{options.HTTPClient}
	return dynamodb.New(options)
}

// answers is the HTTP client of DynamoDB.
type answers struct{ inner dynamodb.HTTPClient }

// Do implements dynamodb.HTTPClient. An answer that breaks off is an error of the connection, after
// which the AWS SDK tries again.
func (a *answers) Do(request *http.Request) (*http.Response, error) {
	response, err := a.inner.Do(request)
	if err == nil {
		err = readAnswer(request, response)
	}
	if err == nil {
		if response.StatusCode != http.StatusOK {
			provider.TraceOf(request.Context()).Failed(fmt.Errorf("HTTP %s", response.Status))
		}
		return response, nil
	}
	err = fmt.Errorf("%s: %w", request.URL.Host, err)
	if request.Context().Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = &lateError{request.URL.Host} // the deadline is not the caller's
	}
	provider.TraceOf(request.Context()).Failed(err)
	return nil, err
}

func readAnswer(request *http.Request, response *http.Response) error {
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("reading the answer: %w", err)
	case len(body) > maxAnswer:
		return fmt.Errorf("the answer has over %d bytes", maxAnswer)
	}
	_, operation, _ := strings.Cut(request.Header.Get("X-Amz-Target"), ".")
	if !isDynamoDBs(operation, response.StatusCode, body) {
		kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
		return &strangeError{response.StatusCode, fmt.Sprintf("HTTP %s with %q is no answer of DynamoDB; check the endpoint's URL and proxies on the way", response.Status, kind)}
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

// members are those of DynamoDB's answers (Amazon DynamoDB API Reference, "Response Syntax").
var members = map[string][]string{
	"GetItem":            {"Item", "ConsumedCapacity"},
	"Query":              {"Items", "Count", "ScannedCount", "LastEvaluatedKey", "ConsumedCapacity"},
	"Scan":               {"Items", "Count", "ScannedCount", "LastEvaluatedKey", "ConsumedCapacity"},
	"TransactWriteItems": {"ConsumedCapacity", "ItemCollectionMetrics"},
	"DescribeTable":      {"Table"},
}

// isDynamoDBs reports whether an answer may be one of DynamoDB's, which are JSON objects, even of
// errors.
func isDynamoDBs(operation string, status int, body []byte) bool {
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) != nil || object == nil {
		return false
	}
	known := members[operation]
	if status != http.StatusOK || len(known) == 0 {
		return true
	}
	for name := range object {
		if !slices.Contains(known, name) {
			return false
		}
	}
	return len(object) > 0 || operation == "GetItem" || operation == "TransactWriteItems"
}

// strangeError is the error of an answer that is not DynamoDB's. The AWS SDK tries again after it
// if its status is that of a fault.
type strangeError struct {
	status int
	text   string
}

func (e *strangeError) Error() string { return e.text }

func (e *strangeError) RetryableError() bool { return e.status >= http.StatusInternalServerError }

// lateError is the error of an attempt that took too long. The AWS SDK tries again after it.
type lateError struct{ host string }

func (e *lateError) Error() string { return "no whole answer of " + e.host + " in time" }

func (*lateError) Timeout() bool { return true }
