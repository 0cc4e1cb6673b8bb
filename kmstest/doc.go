// Package kmstest is an AWS KMS for tests. It runs in the process and answers over HTTP. It needs
// no Docker, no account and no network, so a test that uses it takes milliseconds.
//
// Real clients can use it: the AWS SDKs, boto3 and the AWS CLI, with its URL as the endpoint. A
// request must carry a signature, but any signature is accepted. One server serves every Region,
// which it takes from the request's credential scope. It also serves every account: an access key
// ID of twelve digits is the caller's account, and any other caller belongs to [Account].
//
//	server := kmstest.NewServer(t)
//	key := server.CreateKey(kmstest.Key{Alias: "alias/documents"})
//	p, err := awskms.NewProvider(ctx, awskms.Config{
//		KeyID: key.ARN, Region: key.Region, Endpoint: server.URL,
//	})
//
// Clients need credentials, but any will do. t.Setenv("AWS_ACCESS_KEY_ID", "test") and
// t.Setenv("AWS_SECRET_ACCESS_KEY", "test") are enough for an SDK's default configuration.
//
// The server does what AWS documents, errors included: key states, aliases, encryption contexts,
// key IDs that do not match, sizes, dry runs, rotation and multi-Region keys. Ciphertexts are
// authenticated with their encryption context, under keys that exist as long as the server.
//
// A [Fault] makes calls fail as they do in production. They can be denied, throttled, slow, dropped
// half-way, or answered wrongly. [Endpoint.Calls] and [Endpoint.Requests] return the calls that
// arrived. The test servers of other key services take the same faults.
//
// The operations are DescribeKey, Encrypt, Decrypt, ReEncrypt, GenerateDataKey,
// GenerateDataKeyWithoutPlaintext, DeriveSharedSecret, GetPublicKey, CreateKey, CreateAlias,
// UpdateAlias, DeleteAlias, EnableKey, DisableKey, ScheduleKeyDeletion, CancelKeyDeletion,
// ReplicateKey, EnableKeyRotation, DisableKeyRotation, GetKeyRotationStatus and RotateKeyOnDemand.
// Keys that sign or make MACs can be created and described, but not used. There are no policies or
// grants: without a Fault everything is allowed, and grant tokens are accepted unread. What AWS
// does in the background happens at once. No time passes, so a key that is pending deletion stays
// so until [Server.DeleteKey].
package kmstest
