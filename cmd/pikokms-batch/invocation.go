package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
)

// invocation is a request of S3 Batch Operations, of either schema.
type invocation struct {
	schema    string
	id        string
	jobID     string
	arguments map[string]string // of the job; nil in schema 1.0
	tasks     []task
}

// task is an object to work on.
type task struct {
	id      string
	bucket  string // its name, or the ARN of an access point
	key     string // as the manifest has it, URL-encoded
	version string // empty if the manifest has no versions
}

// parseInvocation parses a request (Amazon S3 User Guide, "Invoke AWS Lambda function").
func parseInvocation(payload []byte) (*invocation, error) {
	var start struct {
		Schema string `json:"invocationSchemaVersion"`
	}
	if err := json.Unmarshal(payload, &start); err != nil {
		return nil, fmt.Errorf("no request of S3 Batch Operations: %w", err)
	}
	switch start.Schema {
	case "1.0":
		var e events.S3BatchJobEvent
		if err := json.Unmarshal(payload, &e); err != nil {
			return nil, fmt.Errorf("request of S3 Batch Operations: %w", err)
		}
		in := &invocation{schema: start.Schema, id: e.InvocationID, jobID: e.Job.ID}
		for _, t := range e.Tasks {
			in.tasks = append(in.tasks, task{t.TaskID, bucketOf(t.S3BucketARN), t.S3Key, t.S3VersionID})
		}
		return in, nil
	case "2.0":
		var e events.S3BatchJobEventV2
		if err := json.Unmarshal(payload, &e); err != nil {
			return nil, fmt.Errorf("request of S3 Batch Operations: %w", err)
		}
		in := &invocation{schema: start.Schema, id: e.InvocationID, jobID: e.Job.ID, arguments: e.Job.UserArguments}
		for _, t := range e.Tasks {
			in.tasks = append(in.tasks, task{t.TaskID, bucketOf(t.S3Bucket), t.S3Key, t.S3VersionID})
		}
		return in, nil
	}
	return nil, fmt.Errorf("no request of S3 Batch Operations that this function knows: invocationSchemaVersion is %q, known are 1.0 and 2.0", start.Schema)
}

// bucketOf returns the name of a bucket, or the ARN of an access point, as the AWS SDK takes it.
func bucketOf(name string) string {
	a, err := arn.Parse(name)
	if err != nil || strings.HasPrefix(a.Resource, "accesspoint") {
		return name
	}
	return strings.TrimPrefix(a.Resource, "bucket/")
}

// keys decodes the key of the object. S3 Inventory and S3's own lists encode keys as HTML forms do,
// in which a plus is a space: that gives key. In manifests that people make a plus may stand for
// itself: that gives plus, which differs from key only if the text has a plus.
func (t task) keys() (key, plus string, err error) {
	if key, err = url.QueryUnescape(t.key); err != nil {
		return "", "", fmt.Errorf("the manifest has the key %.300q, which is not URL-encoded: %w", t.key, err)
	}
	if key == "" {
		return "", "", fmt.Errorf("the manifest has an empty key")
	}
	plus, err = url.PathUnescape(t.key)
	return key, plus, err
}

// The codes of results.
const (
	succeeded        = "Succeeded"
	temporaryFailure = "TemporaryFailure" // S3 tries the task again
	permanentFailure = "PermanentFailure"
)

// newResponse returns the response to a request, without results.
func (in *invocation) newResponse() *events.S3BatchJobResponse {
	return &events.S3BatchJobResponse{InvocationSchemaVersion: in.schema, TreatMissingKeysAs: temporaryFailure, InvocationID: in.id, Results: []events.S3BatchJobResult{}}
}
