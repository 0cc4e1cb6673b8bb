"""Runs the AWS KMS RSA keyring of AWS's Material Providers Library: one JSON request in a line, one answer."""

import base64
import json
import logging
import sys

import aws_encryption_sdk
import boto3
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
from aws_cryptographic_material_providers.mpl.models import CreateAwsKmsRsaKeyringInput
from aws_encryption_sdk.identifiers import Algorithm, CommitmentPolicy

logging.basicConfig(handlers=[logging.NullHandler()])  # what is refused on purpose would be logged with a trace


def run(request):
    """Encrypts or decrypts."""
    materials = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())
    keyring = materials.create_aws_kms_rsa_keyring(
        CreateAwsKmsRsaKeyringInput(
            kms_key_id=request["arn"],
            encryption_algorithm=request["algorithm"],
            public_key=request["public_key"].encode(),
            kms_client=boto3.client("kms"),
        )
    )
    policy = CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
    if request["suite"] < 0x0400:  # these do not commit
        policy = CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT
    client = aws_encryption_sdk.EncryptionSDKClient(commitment_policy=policy)
    data = base64.b64decode(request["data"])
    if request["op"] == "encrypt":
        out, _ = client.encrypt(
            source=data,
            keyring=keyring,
            algorithm=Algorithm.get_by_id(request["suite"]),
            encryption_context=request["context"] or {},
        )
    else:
        out, _ = client.decrypt(source=data, keyring=keyring)
    return {"data": base64.b64encode(out).decode()}


for line in sys.stdin:
    try:
        answer = run(json.loads(line))
    except Exception as error:  # the test on the other side judges it
        answer = {"error": repr(error)}
    print(json.dumps(answer), flush=True)
