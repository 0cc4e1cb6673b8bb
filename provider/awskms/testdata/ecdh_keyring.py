"""Runs the ECDH keyrings of AWS's Material Providers Library: one JSON request in a line, one answer."""

import base64
import json
import logging
import sys

import aws_encryption_sdk
import boto3
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
from aws_cryptographic_material_providers.mpl.models import (
    CreateAwsKmsEcdhKeyringInput,
    CreateRawEcdhKeyringInput,
    EphemeralPrivateKeyToStaticPublicKeyInput,
    KmsEcdhStaticConfigurationsKmsPrivateKeyToStaticPublicKey,
    KmsEcdhStaticConfigurationsKmsPublicKeyDiscovery,
    KmsPrivateKeyToStaticPublicKeyInput,
    KmsPublicKeyDiscoveryInput,
    PublicKeyDiscoveryInput,
    RawEcdhStaticConfigurationsEphemeralPrivateKeyToStaticPublicKey,
    RawEcdhStaticConfigurationsPublicKeyDiscovery,
    RawEcdhStaticConfigurationsRawPrivateKeyToStaticPublicKey,
    RawPrivateKeyToStaticPublicKeyInput,
)
from aws_encryption_sdk.identifiers import Algorithm, CommitmentPolicy

logging.basicConfig(handlers=[logging.NullHandler()])  # what is refused on purpose would be logged with a trace


def schema(key):
    """Returns the key agreement schema of a key's parts: arn or private, and the peer's public key."""
    peer = base64.b64decode(key.get("peer") or "")
    if key.get("arn") and peer:
        return KmsEcdhStaticConfigurationsKmsPrivateKeyToStaticPublicKey(
            value=KmsPrivateKeyToStaticPublicKeyInput(sender_kms_identifier=key["arn"], recipient_public_key=peer)
        )
    if key.get("arn"):
        return KmsEcdhStaticConfigurationsKmsPublicKeyDiscovery(
            value=KmsPublicKeyDiscoveryInput(recipient_kms_identifier=key["arn"])
        )
    private = key.get("private", "").encode()
    if private and peer:
        return RawEcdhStaticConfigurationsRawPrivateKeyToStaticPublicKey(
            value=RawPrivateKeyToStaticPublicKeyInput(sender_static_private_key=private, recipient_public_key=peer)
        )
    if private:
        return RawEcdhStaticConfigurationsPublicKeyDiscovery(
            value=PublicKeyDiscoveryInput(recipient_static_private_key=private)
        )
    return RawEcdhStaticConfigurationsEphemeralPrivateKeyToStaticPublicKey(
        value=EphemeralPrivateKeyToStaticPublicKeyInput(recipient_public_key=peer)
    )


def run(request):
    """Encrypts or decrypts."""
    materials = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())
    key = request["key"]
    if key.get("arn"):
        keyring = materials.create_aws_kms_ecdh_keyring(
            CreateAwsKmsEcdhKeyringInput(
                key_agreement_scheme=schema(key), curve_spec=request["curve"], kms_client=boto3.client("kms")
            )
        )
    else:
        keyring = materials.create_raw_ecdh_keyring(
            CreateRawEcdhKeyringInput(key_agreement_scheme=schema(key), curve_spec=request["curve"])
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
