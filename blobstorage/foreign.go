package blobstorage

import (
	"context"
	"errors"
	"fmt"

	"gocloud.dev/blob"
)

// ErrS3EncryptionClient means that AWS's S3 Encryption Client wrote an object, or the keys of one.
// It is no plaintext, so AllowPlaintext does not let it be read, copied or migrated; only
// AllowS3EncryptionClient does. It is s3ec.ErrNotAllowed.
var ErrS3EncryptionClient = s3ec.ErrNotAllowed

// instructionSuffix ends the key of the object in which that client keeps the keys of another one,
// if its metadata do not (Amazon S3 Encryption Client Developer Guide, "Instruction file").
const instructionSuffix = ".instruction"

// refuseClientEncrypted returns an error that holds ErrS3EncryptionClient if that client wrote an
// object.
func refuseClientEncrypted(ctx context.Context, bucket *blob.Bucket, key string) error {
	a, err := bucket.Attributes(ctx, key)
	if err != nil {
		return err
	}
	return refuseClientMetadata(ctx, bucket, key, a.Metadata)
}

func refuseClientMetadata(ctx context.Context, bucket *blob.Bucket, key string, metadata map[string]string) error {
	_, v1 := metadata["x-amz-key"]
	_, v2 := metadata["x-amz-key-v2"]
	_, v3 := metadata["x-amz-3"]
	_, suite := metadata["x-amz-c"]
	_, instruction := metadata["x-amz-crypto-instr-file"]
	if v1 || v2 || v3 && suite || instruction {
		return fmt.Errorf("blobstorage: %s: %w, as its metadata say", key, ErrS3EncryptionClient)
	}
	beside, err := bucket.Exists(ctx, key+instructionSuffix)
	if err == nil && beside {
		err = fmt.Errorf("blobstorage: %s: %w, since there is %s%s", key, ErrS3EncryptionClient, key, instructionSuffix)
	}
	return err
}
