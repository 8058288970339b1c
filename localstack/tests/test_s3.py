"""Requests of the project to this S3. If these fail, its other tests against LocalStack prove nothing."""

import urllib.error
import urllib.request
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError
from harness import Cloud

MIB = 1 << 20


@pytest.fixture
def bucket(cloud: Cloud) -> str:
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    cloud.s3.create_bucket(Bucket=name)
    return name


def error_of(call: Any, **arguments: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    response = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def test_a_conditional_put_writes_once(cloud: Cloud, bucket: str) -> None:
    cloud.s3.put_object(Bucket=bucket, Key="once", Body=b"first", IfNoneMatch="*")
    refused = error_of(cloud.s3.put_object, Bucket=bucket, Key="once", Body=b"second", IfNoneMatch="*")
    assert refused == (412, "PreconditionFailed")
    assert cloud.s3.get_object(Bucket=bucket, Key="once")["Body"].read() == b"first"


def test_ranges(cloud: Cloud, bucket: str) -> None:
    cloud.s3.put_object(Bucket=bucket, Key="bytes", Body=bytes(range(100)))

    def read(given: str) -> tuple[int, bytes]:
        answer = cloud.s3.get_object(Bucket=bucket, Key="bytes", Range=given)
        return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Body"].read()

    assert read("bytes=10-19") == (206, bytes(range(10, 20)))
    assert read("bytes=90-") == (206, bytes(range(90, 100)))
    assert read("bytes=-8") == (206, bytes(range(92, 100)))
    assert read("bytes=-500") == (206, bytes(range(100)))
    beyond = error_of(cloud.s3.get_object, Bucket=bucket, Key="bytes", Range="bytes=100-")
    assert beyond == (416, "InvalidRange")


def test_a_read_of_a_changed_object_is_refused(cloud: Cloud, bucket: str) -> None:
    etag = cloud.s3.put_object(Bucket=bucket, Key="file", Body=b"planned")["ETag"]
    assert cloud.s3.get_object(Bucket=bucket, Key="file", IfMatch=etag)["Body"].read() == b"planned"
    cloud.s3.put_object(Bucket=bucket, Key="file", Body=b"changed")
    assert error_of(cloud.s3.get_object, Bucket=bucket, Key="file", IfMatch=etag) == (412, "PreconditionFailed")


def test_multipart(cloud: Cloud, bucket: str) -> None:
    parts = [b"a" * 5 * MIB, b"b" * 5 * MIB, b"c"]
    target = {"Bucket": bucket, "Key": "large"}
    target["UploadId"] = cloud.s3.create_multipart_upload(**target)["UploadId"]
    sent = []
    for number, part in enumerate(parts, start=1):
        etag = cloud.s3.upload_part(**target, PartNumber=number, Body=part)["ETag"]
        sent.append({"PartNumber": number, "ETag": etag})
    assert cloud.s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0, "not before it is complete"
    cloud.s3.complete_multipart_upload(**target, MultipartUpload={"Parts": sent})
    assert cloud.s3.get_object(Bucket=bucket, Key="large")["Body"].read() == b"".join(parts)


def test_an_aborted_multipart_upload_leaves_nothing(cloud: Cloud, bucket: str) -> None:
    target = {"Bucket": bucket, "Key": "large"}
    target["UploadId"] = cloud.s3.create_multipart_upload(**target)["UploadId"]
    cloud.s3.upload_part(**target, PartNumber=1, Body=b"part")
    cloud.s3.abort_multipart_upload(**target)
    assert "Uploads" not in cloud.s3.list_multipart_uploads(Bucket=bucket)
    cloud.s3.delete_bucket(Bucket=bucket)


def test_presigned_urls_are_checked(cloud: Cloud, bucket: str) -> None:
    s3 = cloud.client("s3", signature_version="s3v4")
    target = {"Bucket": bucket, "Key": "shared"}
    put = s3.generate_presigned_url("put_object", Params=target)
    with urllib.request.urlopen(urllib.request.Request(put, data=b"through a URL", method="PUT")) as answer:
        assert answer.status == 200
    get = s3.generate_presigned_url("get_object", Params=target)
    with urllib.request.urlopen(get) as answer:
        assert answer.read() == b"through a URL"
    forger = cloud.client("s3", signature_version="s3v4", secret="wrong")
    for url in (
        get.replace("shared", "other"),
        get[:-4] + ("0000" if get[-4:] != "0000" else "1111"),
        forger.generate_presigned_url("get_object", Params=target),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url)
        assert refused.value.code == 403, url


def test_a_missing_bucket_and_a_missing_key_are_told_apart(cloud: Cloud, bucket: str) -> None:
    assert error_of(cloud.s3.get_object, Bucket="no-such-bucket-here", Key="x") == (404, "NoSuchBucket")
    assert error_of(cloud.s3.get_object, Bucket=bucket, Key="x") == (404, "NoSuchKey")
