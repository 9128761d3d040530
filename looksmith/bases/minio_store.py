"""A store of bases behind the S3 API, through the minio SDK. Owns its connections; knows nothing about what it carries.

Repeats what a store did not answer, writes too: a key stands for its bytes, so that writing it twice does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Self, cast

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

from looksmith.bases.errors import BucketNotFound, StoreDenied, StoreRefused, StoreUnavailable
from looksmith.bases.settings import StoreSettings
from looksmith.bases.store import PIECE_BYTES, Source, StoredObject

#: Seconds to connect and to wait for the next bytes.
_TIMEOUT = urllib3.Timeout(connect=5.0, read=30.0)
#: Connections that are kept.
_CONNECTIONS = 8
#: Bytes of a large object that travel in one request, and are held in memory. An object has 10 000 of them at most.
_PART_BYTES = 16 << 20
_DENIED = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})


class MinioBaseStore:
    """BaseStore on one bucket, which must be there. A context manager."""

    def __init__(self, settings: StoreSettings) -> None:
        again = urllib3.Retry(total=3, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504], raise_on_status=False)
        self._pool = urllib3.PoolManager(retries=again, timeout=_TIMEOUT, maxsize=_CONNECTIONS)
        self._endpoint, self._bucket = settings.endpoint, settings.bucket
        self._client = Minio(
            settings.endpoint,
            settings.access_key,
            settings.secret_key,
            secure=settings.secure,
            region=settings.region,
            http_client=self._pool,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._pool.clear()

    def put(self, key: str, stream: Source, size: int) -> None:
        # One part after the other: the SDK's own threads go through the whole stream before they tell of a failure.
        with self._translated():
            self._client.put_object(
                self._bucket, key, cast(BinaryIO, stream), size, part_size=_PART_BYTES, num_parallel_uploads=1
            )

    def size(self, key: str) -> int | None:
        with self._translated():
            try:
                return self._client.stat_object(self._bucket, key).size
            except S3Error as error:
                if error.code == "NoSuchKey":
                    return None
                raise

    def get(self, key: str) -> bytes | None:
        with self._translated():
            try:
                response = self._client.get_object(self._bucket, key)  # a HEAD could not tell a missing bucket
            except S3Error as error:
                if error.code == "NoSuchKey":
                    return None
                raise
            try:
                return response.read()
            finally:
                response.release_conn()

    def read(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        with self._translated():
            response = self._client.get_object(self._bucket, key, offset)
        whole = False
        try:
            while True:
                with self._translated():
                    piece = response.read(PIECE_BYTES)
                if not piece:
                    break
                yield piece
            whole = True
        finally:
            if whole:
                response.release_conn()
            else:
                response.close()  # what is still to come must not meet the next request

    def listing(self, prefix: str) -> list[StoredObject]:
        with self._translated():
            return [
                StoredObject(found.object_name, found.size or 0, found.last_modified)
                for found in self._client.list_objects(self._bucket, prefix, recursive=True)
                if found.object_name and found.last_modified
            ]

    def delete(self, key: str) -> None:
        with self._translated():
            self._client.remove_object(self._bucket, key)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What the SDK raises, as looksmith.bases.errors has it. OSError is not touched: it may be the disk's."""
        try:
            yield
        except S3Error as error:
            if error.code in _DENIED:
                raise StoreDenied(error.code) from error
            if error.code == "NoSuchBucket":
                raise BucketNotFound(self._bucket) from error
            if error.response.status >= 500:
                raise StoreUnavailable(self._endpoint, error.code) from error
            raise StoreRefused(error.code) from error
        except (HTTPError, MinioException) as error:
            raise StoreUnavailable(self._endpoint, _in_words(error)) from error


def _in_words(error: Exception) -> str:
    """The innermost cause, which is the one that says something."""
    cause = getattr(error, "reason", None)
    if isinstance(cause, Exception):
        return _in_words(cause)
    text = str(error)
    if "Connection refused" in text:
        return "connection refused; is it up?"
    return text if text and len(text) < 200 else type(error).__name__
