"""Writes or reads objects of a bucket with AWS's S3 Encryption Client for Python, in versions 2 and 3."""

import sys

import boto3
from s3_encryption import S3EncryptionClient, S3EncryptionClientConfig
from s3_encryption.materials.kms_keyring import KmsKeyring
from s3_encryption.materials.materials import AlgorithmSuite, CommitmentPolicy

bucket, do = sys.argv[1:]
kms = boto3.client("kms")
keys = kms.list_keys()["Keys"]
arn = keys[0]["KeyArn"] if keys else kms.create_key()["KeyMetadata"]["Arn"]
keyring = KmsKeyring(kms, arn)
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
        client.put_object(Bucket=bucket, Key=name, Body=content)
    else:
        assert client.get_object(Bucket=bucket, Key=name)["Body"].read() == content, name
