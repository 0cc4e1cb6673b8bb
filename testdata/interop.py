"""Runs AWS's own Encryption SDK for Python on request: one JSON object in, one out, a line each."""

import base64
import json
import logging
import sys

import aws_encryption_sdk
from aws_encryption_sdk.identifiers import CommitmentPolicy, EncryptionKeyType, WrappingAlgorithm
from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
from aws_encryption_sdk.key_providers.raw import RawMasterKeyProvider

try:
    import boto3
    from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
    from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
    from aws_cryptographic_material_providers.mpl.models import (
        AesWrappingAlg,
        CreateAwsKmsKeyringInput,
        CreateDefaultCryptographicMaterialsManagerInput,
        CreateRawAesKeyringInput,
        CreateRequiredEncryptionContextCMMInput,
    )
except ImportError:  # only needed for requests with "required"; they then fail
    pass


logging.basicConfig(handlers=[logging.NullHandler()])  # what is refused on purpose would be logged with a trace

AES = {
    16: WrappingAlgorithm.AES_128_GCM_IV12_TAG16_NO_PADDING,
    24: WrappingAlgorithm.AES_192_GCM_IV12_TAG16_NO_PADDING,
    32: WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING,
}
RSA = {
    "pkcs1": WrappingAlgorithm.RSA_PKCS1,
    "sha1": WrappingAlgorithm.RSA_OAEP_SHA1_MGF1,
    "sha256": WrappingAlgorithm.RSA_OAEP_SHA256_MGF1,
    "sha384": WrappingAlgorithm.RSA_OAEP_SHA384_MGF1,
    "sha512": WrappingAlgorithm.RSA_OAEP_SHA512_MGF1,
}


def wrapping_key(key):
    if "pem" in key:
        private = "PRIVATE" in key["pem"]
        return WrappingKey(
            wrapping_algorithm=RSA[key.get("hash") or "pkcs1"],
            wrapping_key=key["pem"].encode(),
            wrapping_key_type=EncryptionKeyType.PRIVATE if private else EncryptionKeyType.PUBLIC,
        )
    raw = base64.b64decode(key["key"])
    return WrappingKey(
        wrapping_algorithm=AES[len(raw)],
        wrapping_key=raw,
        wrapping_key_type=EncryptionKeyType.SYMMETRIC,
    )


def raw_provider(key):
    class Provider(RawMasterKeyProvider):
        provider_id = key["namespace"]

        def _get_raw_key(self, key_id):
            return wrapping_key(key)

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


def required_context(key, names):
    """Returns a materials manager that leaves the pairs of these names out of the header."""
    materials = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())
    if "arn" in key:
        keyring = materials.create_aws_kms_keyring(
            CreateAwsKmsKeyringInput(kms_key_id=key["arn"], kms_client=boto3.client("kms"))
        )
    else:
        keyring = materials.create_raw_aes_keyring(
            CreateRawAesKeyringInput(
                key_namespace=key["namespace"],
                key_name=key["name"],
                wrapping_key=base64.b64decode(key["key"]),
                wrapping_alg=AesWrappingAlg.ALG_AES256_GCM_IV12_TAG16,
            )
        )
    default = materials.create_default_cryptographic_materials_manager(
        CreateDefaultCryptographicMaterialsManagerInput(keyring=keyring)
    )
    return materials.create_required_encryption_context_cmm(
        CreateRequiredEncryptionContextCMMInput(
            required_encryption_context_keys=names, underlying_cmm=default
        )
    )


def run(request):
    data = base64.b64decode(request["data"] or "")
    client = client_of(request["suite"])
    if request.get("required"):
        source = {"materials_manager": required_context(request["key"], request["required"])}
    else:
        source = {"key_provider": provider_of(request["key"])}
    if request["op"] == "encrypt":
        out, _ = client.encrypt(
            source=data,
            algorithm=aws_encryption_sdk.Algorithm.get_by_id(request["suite"]),
            encryption_context=request["context"],
            frame_length=request["frame_length"],
            **source,
        )
        return {"data": base64.b64encode(out).decode()}
    if request.get("required"):
        source["encryption_context"] = request["context"]
    out, header = client.decrypt(source=data, **source)
    return {"data": base64.b64encode(out).decode(), "context": header.encryption_context}


for line in sys.stdin:
    try:
        answer = run(json.loads(line))
    except Exception as error:  # the test on the other side judges it
        answer = {"error": repr(error)}
    print(json.dumps(answer), flush=True)
