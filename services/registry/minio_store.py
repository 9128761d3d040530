"""An object store behind the S3 API, through the minio SDK: MinIO, SeaweedFS or any faithful other.

Owns its threads, connections and bucket. Never repeats a write: a repeated create after a lost answer would report
one's own success as someone else's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from itertools import islice
from typing import Self, TypeVar

import structlog
import urllib3
from minio import Minio
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from services.chassis.threads import full_pool
from services.registry.errors import StoreRefused, StoreUnavailable
from services.registry.object_store import STREAM_BYTES, Creation, StoredObject

log = structlog.get_logger()

#: Blocking calls that run at once; a call that hangs holds its thread until it times out.
THREADS = 16
#: Seconds to connect: the store is near. Seconds to wait for the next bytes: an object has 8 MiB.
TIMEOUT = urllib3.Timeout(connect=2.0, read=20.0)
#: Tries to make the bucket, 0.5 s apart, while the store starts.
BUCKET_TRIES = 20

T = TypeVar("T")


class MinioObjectStore:
    """ObjectStore on one bucket. Enter it before use: that creates the bucket where it is missing."""

    def __init__(
        self, *, endpoint: str, access_key: str, secret_key: str, bucket: str, secure: bool, region: str
    ) -> None:
        pool = urllib3.PoolManager(retries=False, timeout=TIMEOUT, maxsize=THREADS)
        self._client = Minio(endpoint, access_key, secret_key, secure=secure, region=region, http_client=pool)
        self._bucket = bucket
        self._threads = full_pool(THREADS, "store")

    async def __aenter__(self) -> Self:
        for attempt in range(BUCKET_TRIES):
            try:
                await self._run(self._make_bucket)
            except StoreUnavailable as error:
                if attempt == BUCKET_TRIES - 1:
                    raise
                log.info("store.waiting", error=error.message)
                await asyncio.sleep(0.5)
            else:
                break
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _make_bucket(self) -> None:
        try:
            if not self._client.bucket_exists(self._bucket):
                self._client.make_bucket(self._bucket)
        except S3Error as error:
            if error.code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:  # another replica was faster
                raise

    async def create_if_absent(self, key: str, data: bytes) -> Creation:
        def create() -> Creation:
            try:
                # Private: 7.2.20's public put_object turns this header into x-amz-meta-if-none-match and overwrites.
                self._client._put_object(self._bucket, key, data, headers={"If-None-Match": "*"})  # noqa: SLF001
            except S3Error as error:
                if error.response.status == 412:
                    return Creation.EXISTS
                if error.response.status == 409 or error.response.status >= 500:
                    return Creation.UNKNOWN  # 409: two are at it; some stores say so to the loser, AWS to either
                raise
            except (ConnectTimeoutError, NewConnectionError):
                raise  # nothing was sent
            except (HTTPError, ServerError, InvalidResponseError, OSError):
                return Creation.UNKNOWN
            return Creation.CREATED

        return await self._run(create)

    async def put(self, key: str, data: bytes | memoryview) -> None:
        # Private: the public put_object takes what can be read as bytes, and so a copy.
        await self._run(lambda: self._client._put_object(self._bucket, key, data))  # type: ignore[arg-type]  # noqa: SLF001  # any buffer does

    async def get(self, key: str) -> bytes | None:
        def read() -> bytes:
            response = self._client.get_object(self._bucket, key)
            try:
                return response.read()
            finally:
                response.close()
                response.release_conn()

        return await self._read(lambda: _unless_missing(read))

    async def stream(self, key: str, *, offset: int = 0, limit: int = 0) -> AsyncIterator[bytes]:
        response = await self._read(lambda: self._client.get_object(self._bucket, key, offset, limit))
        try:
            while piece := await self._run(lambda: response.read(STREAM_BYTES)):
                yield piece
        finally:
            # Not here: while a cancelled read still runs in its thread, closing waits for it.
            with contextlib.suppress(RuntimeError):  # the store was closed first, and its connections with it
                self._threads.submit(response.close)

    async def size(self, key: str) -> int | None:
        return await self._read(lambda: _unless_missing(lambda: self._client.stat_object(self._bucket, key).size))

    async def keys(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> list[str]:
        return [found.key for found in await self.listing(prefix, start_after=start_after, limit=limit)]

    async def listing(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> list[StoredObject]:
        def found() -> list[StoredObject]:
            entries = self._client.list_objects(self._bucket, prefix, recursive=True, start_after=start_after or None)
            return [
                StoredObject(entry.object_name, entry.size or 0, entry.last_modified)
                for entry in islice(entries, limit)
                if entry.object_name and entry.last_modified
            ]

        return await self._read(found)

    async def folders(self, prefix: str) -> list[str]:
        def names() -> list[str]:
            found = (entry for entry in self._client.list_objects(self._bucket, prefix) if entry.is_dir)
            return sorted({str(entry.object_name).removeprefix(prefix).rstrip("/") for entry in found})

        return await self._read(names)

    async def delete(self, key: str) -> None:
        await self._run(lambda: self._client.remove_object(self._bucket, key))

    async def _read(self, call: Callable[[], T]) -> T:
        """Runs what changes nothing, and once more where a kept connection turns out to be dead."""
        with contextlib.suppress(StoreUnavailable):
            return await self._run(call)
        return await self._run(call)

    async def _run(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except S3Error as error:
            if error.response.status >= 500:
                raise StoreUnavailable(error.code) from error
            raise StoreRefused(error.code) from error
        except (HTTPError, OSError, MinioException) as error:
            raise StoreUnavailable(type(error).__name__) from error


def _unless_missing(call: Callable[[], T]) -> T | None:
    try:
        return call()
    except S3Error as error:
        if error.code == "NoSuchKey":
            return None
        raise
