"""Runs AWS's own Encryption SDK for Python on request: one JSON object in, one out, a line each."""

import base64
import json
import sys

import aws_encryption_sdk
from aws_encryption_sdk.identifiers import CommitmentPolicy, EncryptionKeyType, WrappingAlgorithm
from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
from aws_encryption_sdk.key_providers.raw import RawMasterKeyProvider


def raw_provider(key):
    class Provider(RawMasterKeyProvider):
        provider_id = key["namespace"]

        def _get_raw_key(self, key_id):
            raw = base64.b64decode(key["key"])
            algorithm = {
                16: WrappingAlgorithm.AES_128_GCM_IV12_TAG16_NO_PADDING,
                24: WrappingAlgorithm.AES_192_GCM_IV12_TAG16_NO_PADDING,
                32: WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING,
            }[len(raw)]
            return WrappingKey(
                wrapping_algorithm=algorithm,
                wrapping_key=raw,
                wrapping_key_type=EncryptionKeyType.SYMMETRIC,
            )

    provider = Provider()
    provider.add_master_key(key["name"].encode())
    return provider


def provider_of(key):
    if "arn" in key:
        return aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[key["arn"]])
    return raw_provider(key)


def client_of(suite):
    policy = CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
    if suite < 0x0400:  # these do not commit
        policy = CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT
    return aws_encryption_sdk.EncryptionSDKClient(commitment_policy=policy)


def run(request):
    data = base64.b64decode(request["data"])
    key_provider = provider_of(request["key"])
    client = client_of(request["suite"])
    if request["op"] == "encrypt":
        out, _ = client.encrypt(
            source=data,
            key_provider=key_provider,
            algorithm=aws_encryption_sdk.Algorithm.get_by_id(request["suite"]),
            encryption_context=request["context"],
            frame_length=request["frame_length"],
        )
        return {"data": base64.b64encode(out).decode()}
    out, header = client.decrypt(source=data, key_provider=key_provider)
    return {"data": base64.b64encode(out).decode(), "context": header.encryption_context}


for line in sys.stdin:
    try:
        answer = run(json.loads(line))
    except Exception as error:  # the test on the other side judges it
        answer = {"error": repr(error)}
    print(json.dumps(answer), flush=True)
