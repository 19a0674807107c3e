"""The object store: real S3 calls over boto3, with every failure told in one line.

Nothing here is mocked or cached. Objects that others may read at any moment are written with create-once puts
(``If-None-Match: *``) or under a name that is a digest of their content.
"""

from __future__ import annotations

from typing import Any

from infra.ports import endpoints, need
from infra.settings import Settings
from serving.errors import UserError

_ABSENT = frozenset({"NoSuchKey", "NotFound", "404"})
_THERE = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})


class ObjectStoreError(UserError):
    """The object store did not do what it was asked: down, refused, or the bucket is missing."""


class ObjectMissing(ObjectStoreError):
    """No object has this key."""


class ObjectStore:
    """One bucket of an S3 store.

    Args:
        endpoint: Base URL, such as ``http://127.0.0.1:8333``.
        bucket: Must exist.
        access_key, secret_key, region: As S3 has them.

    The client is made at the first call, and may be shared by threads. Connecting is given up after 2 s and a
    silent answer after 20 s, each tried twice, so that a store that is down is told within seconds.
    """

    def __init__(self, endpoint: str, bucket: str, access_key: str, secret_key: str, region: str) -> None:
        self.endpoint = endpoint
        self.bucket = bucket
        self._keys = (access_key, secret_key, region)
        self._made: Any = None

    @property
    def _client(self) -> Any:
        if self._made is None:
            import boto3
            from botocore.config import Config

            access_key, secret_key, region = self._keys
            self._made = boto3.session.Session().client(
                "s3",
                endpoint_url=self.endpoint,
                aws_access_key_id=access_key,
                aws_secret_access_key=secret_key,
                region_name=region,
                config=Config(
                    signature_version="s3v4",
                    connect_timeout=2,
                    read_timeout=20,
                    retries={"total_max_attempts": 2, "mode": "standard"},
                    s3={"addressing_style": "path"},
                ),
            )
        return self._made

    def put(self, key: str, data: bytes, *, only_if_absent: bool = False) -> bool:
        """Write an object. With `only_if_absent`, an object that is there stays, and the answer is False."""
        condition = {"IfNoneMatch": "*"} if only_if_absent else {}
        try:
            self._client.put_object(Bucket=self.bucket, Key=key, Body=data, **condition)
        except Exception as error:
            if only_if_absent and _code(error) in _THERE:
                return False
            raise self._told(error, "write", key) from None
        return True

    def get(self, key: str) -> bytes:
        """The object's bytes; raises ObjectMissing."""
        try:
            return bytes(self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        except Exception as error:
            raise self._told(error, "read", key) from None

    def exists(self, key: str) -> bool:
        """Whether an object has this key."""
        try:
            self._client.head_object(Bucket=self.bucket, Key=key)
        except Exception as error:
            told = self._told(error, "look for", key)
            if isinstance(told, ObjectMissing):
                return False
            raise told from None
        return True

    def list(self, prefix: str) -> list[str]:
        """Every key that starts with `prefix`, sorted."""
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            return sorted(str(item["Key"]) for page in pages for item in page.get("Contents", ()))
        except Exception as error:
            raise self._told(error, "list", prefix) from None

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        try:
            self._client.delete_object(Bucket=self.bucket, Key=key)
        except Exception as error:
            raise self._told(error, "delete", key) from None

    def ready(self) -> bool:
        """Whether the store answers and the bucket exists; the port answers before the buckets do."""
        try:
            names = [bucket["Name"] for bucket in self._client.list_buckets().get("Buckets", ())]
        except Exception as error:
            self._told(error, "list buckets of", "")
            return False
        return self.bucket in names

    def _told(self, error: Exception, verb: str, key: str) -> ObjectStoreError:
        """The failure as one line; what boto3 did not raise is not ours to translate."""
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"s3://{self.bucket}/{key} at {self.endpoint}"
        if isinstance(error, ClientError):
            code = _code(error)
            if code in _ABSENT:
                return ObjectMissing(f"no object {where}")
            if code == "NoSuchBucket":
                return ObjectStoreError(f"the object store at {self.endpoint} has no bucket {self.bucket!r}: make it")
            if code in {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}:
                return ObjectStoreError(f"cannot {verb} {where}: access refused ({code}); check [s3] access_key")
            return ObjectStoreError(f"cannot {verb} {where}: {code}")
        if isinstance(error, BotoCoreError | OSError):
            return ObjectStoreError(
                f"cannot {verb} {where}: the object store does not answer ({type(error).__name__}); is it up?"
            )
        raise error


def _code(error: Exception) -> str:
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def object_store(settings: Settings) -> ObjectStore:
    """The configured store, or the embedded one of this home; raises UserError when neither has an address."""
    s3 = settings.s3
    return ObjectStore(need(endpoints(settings).s3, "S3"), s3.bucket, s3.access_key, s3.secret_key, s3.region)
