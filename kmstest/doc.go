// Package kmstest is an AWS KMS for tests. It runs in the process, answers over HTTP and needs no
// Docker, no account and no network, so a test that uses it takes milliseconds.
//
// The real clients talk to it: the AWS SDKs, boto3 and the AWS CLI, given [Server.URL] as the
// endpoint. It signs in anyone: a request must carry a signature, which is not verified. One
// server serves every Region, by the Region in the request's credential scope, and every
// account: an access key ID of twelve digits is the caller's account, any other caller belongs to
// [Account].
//
//	server := kmstest.NewServer(t)
//	key := server.CreateKey(kmstest.Key{Alias: "alias/documents"})
//	p, err := awskms.NewProvider(ctx, awskms.Config{
//		KeyID: key.ARN, Region: key.Region, Endpoint: server.URL,
//	})
//
// Clients need credentials, and any will do: t.Setenv("AWS_ACCESS_KEY_ID", "test") and
// t.Setenv("AWS_SECRET_ACCESS_KEY", "test") are enough for an SDK's default configuration.
//
// It does what AWS documents, errors included: key states, aliases, encryption contexts, key IDs
// that do not match, sizes, dry runs, rotation and multi-Region keys. Ciphertexts are
// authenticated with their encryption context under keys that live and die with the server.
//
// A [Fault] makes calls go wrong as they do in production: denied, throttled, slow, dropped
// half-way, or answered with a lie. [Server.Calls] and [Server.Requests] tell what was asked.
//
// The operations are DescribeKey, Encrypt, Decrypt, ReEncrypt, GenerateDataKey,
// GenerateDataKeyWithoutPlaintext, GetPublicKey, CreateKey, CreateAlias, UpdateAlias, DeleteAlias,
// EnableKey, DisableKey, ScheduleKeyDeletion, CancelKeyDeletion, ReplicateKey, EnableKeyRotation,
// DisableKeyRotation, GetKeyRotationStatus and RotateKeyOnDemand. Keys that sign, agree on secrets
// or make MACs can be created and described, not used. Policies and grants are not kept: everything
// is allowed that no Fault denies, and grant tokens are accepted unread. What AWS does in the
// background happens at once, and no time passes: a key that is pending deletion stays so until
// [Server.DeleteKey].
package kmstest
