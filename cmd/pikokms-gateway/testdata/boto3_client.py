"""Writes and reads with boto3 through the endpoint that the environment names."""
import io
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

s3 = boto3.client("s3", config=Config(signature_version="s3v4", s3={"addressing_style": "path"}))
s3.create_bucket(Bucket="boto3")
hello = b"PLAINTEXTMARKER hello"
s3.put_object(Bucket="boto3", Key="a/b", Body=hello, Metadata={"who": "me"}, ContentType="text/plain")
got = s3.get_object(Bucket="boto3", Key="a/b", ChecksumMode="ENABLED")
assert got["Body"].read() == hello
assert got["Metadata"] == {"who": "me"} and got["ContentType"] == "text/plain"
assert s3.get_object(Bucket="boto3", Key="a/b", Range="bytes=3-5")["Body"].read() == hello[3:6]

big = b"PLAINTEXTMARKER" * 1_500_000
s3.upload_fileobj(io.BytesIO(big), "boto3", "big")
back = io.BytesIO()
s3.download_fileobj("boto3", "big", back)
assert back.getvalue() == big

url = s3.generate_presigned_url("get_object", Params={"Bucket": "boto3", "Key": "a/b"})
assert urllib.request.urlopen(url).read() == hello
s3.copy_object(Bucket="boto3", Key="c", CopySource="boto3/a/b")
assert s3.get_object(Bucket="boto3", Key="c")["Body"].read() == hello
for code, wrong in {"PreconditionFailed": {"IfNoneMatch": "*"}, "BadDigest": {"ChecksumCRC32": "AAAAAA=="}}.items():
    try:
        s3.put_object(Bucket="boto3", Key="c", Body=b"x", **wrong)
    except ClientError as e:
        assert e.response["Error"]["Code"] == code, e
    else:
        raise SystemExit("stored in spite of %s" % wrong)
sizes = {o["Key"]: o["Size"] for o in s3.list_objects_v2(Bucket="boto3")["Contents"]}
assert sizes == {"a/b": len(hello), "big": len(big), "c": len(hello)}, sizes
