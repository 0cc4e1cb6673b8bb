"""Runs AWS's Encryption SDK for Python with the hierarchical keyring on request: one JSON object in,
one out, a line each. DynamoDB and KMS are asked at AWS_ENDPOINT_URL."""

import base64
import json
import logging
import sys

import aws_encryption_sdk
import boto3
from aws_cryptographic_material_providers.keystore.client import KeyStore
from aws_cryptographic_material_providers.keystore.config import KeyStoreConfig
from aws_cryptographic_material_providers.keystore.models import (
    CreateKeyInput,
    CreateKeyStoreInput,
    Discovery,
    GetBeaconKeyInput,
    KMSConfigurationDiscovery,
    KMSConfigurationKmsKeyArn,
    VersionKeyInput,
)
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
from aws_cryptographic_material_providers.mpl.models import (
    CreateAwsKmsHierarchicalKeyringInput,
    CreateDefaultCryptographicMaterialsManagerInput,
    CreateRequiredEncryptionContextCMMInput,
    GetBranchKeyIdOutput,
)
from aws_cryptographic_material_providers.mpl.references import IBranchKeyIdSupplier
from aws_encryption_sdk.identifiers import CommitmentPolicy

logging.basicConfig(handlers=[logging.NullHandler()])  # what is refused on purpose would be logged with a trace

materials = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())
dynamodb, kms = boto3.client("dynamodb"), boto3.client("kms")


class ByTenant(IBranchKeyIdSupplier):
    def get_branch_key_id(self, param):
        return GetBranchKeyIdOutput(branch_key_id=param.encryption_context["tenant"])


def store_of(request):
    configuration = KMSConfigurationDiscovery(Discovery())
    if request.get("key"):
        configuration = KMSConfigurationKmsKeyArn(request["key"])
    return KeyStore(
        KeyStoreConfig(
            ddb_client=dynamodb,
            ddb_table_name=request["table"],
            logical_key_store_name=request["logical_name"],
            kms_client=kms,
            kms_configuration=configuration,
        )
    )


def materials_manager(request):
    picks = {"branch_key_id": request["id"]} if request.get("id") else {"branch_key_id_supplier": ByTenant()}
    keyring = materials.create_aws_kms_hierarchical_keyring(
        CreateAwsKmsHierarchicalKeyringInput(key_store=store_of(request), ttl_seconds=60, **picks)
    )
    manager = materials.create_default_cryptographic_materials_manager(
        CreateDefaultCryptographicMaterialsManagerInput(keyring=keyring)
    )
    if not request.get("required"):
        return manager
    return materials.create_required_encryption_context_cmm(
        CreateRequiredEncryptionContextCMMInput(
            required_encryption_context_keys=request["required"], underlying_cmm=manager
        )
    )


def client_of(suite):
    policy = CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
    if suite < 0x0400:  # these do not commit
        policy = CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT
    return aws_encryption_sdk.EncryptionSDKClient(commitment_policy=policy)


def run(request):
    operation = request["op"]
    if operation == "create-table":
        store_of(request).create_key_store(CreateKeyStoreInput())
        return {}
    if operation == "create":
        made = store_of(request).create_key(
            CreateKeyInput(branch_key_identifier=request.get("id"), encryption_context=request.get("context"))
        )
        return {"id": made.branch_key_identifier}
    if operation == "version":
        store_of(request).version_key(VersionKeyInput(branch_key_identifier=request["id"]))
        return {}
    if operation == "beacon":
        got = store_of(request).get_beacon_key(GetBeaconKeyInput(branch_key_identifier=request["id"]))
        return {"data": base64.b64encode(got.beacon_key_materials.beacon_key).decode()}
    data = base64.b64decode(request.get("data") or "")
    client = client_of(request["suite"])
    if operation == "encrypt":
        out, _ = client.encrypt(
            source=data,
            algorithm=aws_encryption_sdk.Algorithm.get_by_id(request["suite"]),
            encryption_context=request.get("context") or {},
            frame_length=request["frame_length"],
            materials_manager=materials_manager(request),
        )
        return {"data": base64.b64encode(out).decode()}
    stated = {"encryption_context": request["context"]} if request.get("required") else {}
    out, header = client.decrypt(source=data, materials_manager=materials_manager(request), **stated)
    return {"data": base64.b64encode(out).decode(), "context": header.encryption_context}


for line in sys.stdin:
    try:
        answer = run(json.loads(line))
    except Exception as error:  # the test on the other side judges it
        answer = {"error": repr(error)}
    print(json.dumps(answer), flush=True)
