"""Writes or reads objects of a bucket with AWS's S3 Encryption Client for Python, in versions 2 and 3.

What was moved is read by AWS's Encryption SDK.
"""

import sys

import aws_encryption_sdk
import boto3
from s3_encryption import S3EncryptionClient, S3EncryptionClientConfig
from s3_encryption.materials.kms_keyring import KmsKeyring
from s3_encryption.materials.materials import AlgorithmSuite, CommitmentPolicy

bucket, do, arn = sys.argv[1:]
keyring = KmsKeyring(boto3.client("kms"), arn)
clients = {
    "v2": S3EncryptionClient(
        boto3.client("s3"),
        S3EncryptionClientConfig(
            keyring=keyring,
            encryption_algorithm=AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_NO_KDF,
            commitment_policy=CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT,
        ),
    ),
    "v3": S3EncryptionClient(boto3.client("s3"), S3EncryptionClientConfig(keyring=keyring)),
}
content = b"0123456789" * 20000
for name, client in clients.items():
    if do == "write":
        client.put_object(Bucket=bucket, Key=name, Body=content, ContentType="text/plain")
    elif do == "moved":
        stored = boto3.client("s3").get_object(Bucket=bucket, Key=name)
        assert not [k for k in stored["Metadata"] if k.startswith("x-amz-")], stored["Metadata"]
        assert stored["ContentType"] == "text/plain", stored["ContentType"]
        provider = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[arn])
        plain, _ = aws_encryption_sdk.EncryptionSDKClient().decrypt(source=stored["Body"], key_provider=provider)
        assert plain == content, name
    else:
        assert client.get_object(Bucket=bucket, Key=name)["Body"].read() == content, name
