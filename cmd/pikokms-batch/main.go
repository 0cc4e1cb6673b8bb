// Command pikokms-batch is an AWS Lambda function for S3 Batch Operations. A job of S3 invokes it
// for each object of a manifest, and it encrypts the object in its place, moves it to another key,
// or verifies it. docs/OPERATIONS.md, "A billion objects", shows how to set it up.
//
// Environment variables of the function configure it:
//
//	PIKOKMS_JOB               encrypt, rewrap or verify; a job's user argument "job" goes before it
//	PIKOKMS_KEY               the KEY that objects are to be under
//	PIKOKMS_RECOVERY_KEYS     KEYs that objects are to be under as well, separated by spaces. Public
//	                          keys suffice, such as local:recovery.key.pub, a file that was put into
//	                          the function's zip.
//	PIKOKMS_OLD_KEYS          KEYs that they may be under until now, separated by spaces
//	PIKOKMS_BIND_OBJECT_NAMES the name of the bucket that the hosts of the objects state, if they
//	                          bind objects to their names
//	PIKOKMS_BIND_UNBOUND      true makes rewrap bind objects that are bound to no name. Whatever is
//	                          stored under a name then becomes its content for good
//	PIKOKMS_ALLOW_UNAUTHENTICATED_S3_CLIENT  true makes rewrap move, and verify read, what version 1
//	                          of AWS's S3 Encryption Client wrote with AES-CBC
//	PIKOKMS_ALLOW_PIKO_V2     true makes rewrap move, and verify read, what Piko wrote before pikokms
//	PIKOKMS_ALLOW_LOSSES      what objects may lose when they are replaced, and are refused otherwise:
//	                          acl, checksum, lock, metadata, tags, separated by spaces
//	PIKOKMS_DATA_KEY_CACHE    how long a data key serves further objects, such as 5m
//	PIKOKMS_MB_PER_SECOND     how fast objects are taken to be read and written, in 10⁶ bytes
//	PIKOKMS_REQUESTER_PAYS    true pays for the requests to buckets where the requester does
//
// A KEY is one that the command takes. A key of AWS KMS is named by its ARN, as awskms:///ARN, and a
// branch key is one of a table, as branchkey://TABLE/ID?key=ARN. AWS_MAX_ATTEMPTS and the other
// variables of the AWS SDK work as everywhere.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/aws/aws-lambda-go/lambda"
)

func main() {
	slog.SetDefault(log) // for what the AWS SDK logs
	lambda.Start(newFunction(context.Background(), os.Getenv).handle)
}
