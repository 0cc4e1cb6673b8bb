"""Opens the vectors with ML-KEM-768 and X25519, and wraps their data keys anew, by Python's package cryptography."""

import base64
import json
import sys

from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519


def private_key(pem):
    """Returns the key of a PEM text: a seed, of which SHAKE-256 makes those of ML-KEM and X25519."""
    text = pem.split("-----BEGIN PIKOKMS HPKE PRIVATE KEY-----")[1].split("-----END")[0]
    content = base64.b64decode(text)
    assert content[:2] == b"\x64\x7a"
    shake = hashes.Hash(hashes.SHAKE256(96))
    shake.update(content[2:])
    seeds = shake.finalize()
    return hpke.MLKEM768X25519PrivateKey(
        mlkem.MLKEM768PrivateKey.from_seed_bytes(seeds[:64]), x25519.X25519PrivateKey.from_private_bytes(seeds[64:])
    )


wrapped = []
suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
with open(sys.argv[1]) as file:
    vectors = json.load(file)
for i, v in enumerate(vectors):
    if v["kem"] != "HPKE-MLKEM768-X25519":
        continue  # it has no ML-KEM-768 with P-256
    key = private_key(v["key"])
    info, data_key = base64.b64decode(v["hpke_info"]), base64.b64decode(v["data_key"])
    assert suite.decrypt(base64.b64decode(v["ciphertext"]), key, info) == data_key
    for wrong in (b"", info + b"x"):
        try:
            suite.decrypt(base64.b64decode(v["ciphertext"]), key, wrong)
        except Exception:
            continue
        raise AssertionError("it opens under another info")
    ciphertext = suite.encrypt(data_key, key.public_key(), info)
    wrapped.append({"vector": i, "ciphertext": base64.b64encode(ciphertext).decode()})
print(json.dumps(wrapped))
