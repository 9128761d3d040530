"""Where the object store is, as LOOKSMITH_STORE_* say. Leaves the way there to minio_store, and so its SDK."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from looksmith.bases.errors import SdkMissing
from looksmith.bases.store import BaseStore
from looksmith.nouns import Malformed

PREFIX = "LOOKSMITH_STORE_"
#: The keys of the store that `looksmith up` starts, on loopback alone.
LOCAL_ACCESS_KEY, LOCAL_SECRET_KEY = "looksmith", "looksmith-local"
LOCAL_ENDPOINT = "127.0.0.1:7402"
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_ENDPOINT = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9a-f:]+\](:[0-9]{1,5})?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


@dataclass(frozen=True)
class StoreSettings:
    """Without any variable: the local stack's.

    Raises:
        Malformed: endpoint or bucket can't be what they stand for.
    """

    endpoint: str = LOCAL_ENDPOINT
    """host:port of MinIO, or of any other store with its API."""
    access_key: str = LOCAL_ACCESS_KEY
    secret_key: str = field(default=LOCAL_SECRET_KEY, repr=False)
    bucket: str = "looksmith"
    """The registry's; bases have a prefix of their own in it."""
    secure: bool = False
    """Whether the store is reached over TLS."""
    region: str = "us-east-1"
    """Region of the bucket, which signatures contain. MinIO's own default."""

    def __post_init__(self) -> None:
        if not _ENDPOINT.fullmatch(self.endpoint):
            raise Malformed(f"{PREFIX}ENDPOINT", f"must be HOST:PORT, not {self.endpoint!r}")
        if not _BUCKET.fullmatch(self.bucket):
            raise Malformed(f"{PREFIX}BUCKET", f"must be 3 to 63 of a-z, 0-9, '.' and '-', not {self.bucket!r}")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], *, endpoint: str = "") -> Self:
        """``endpoint``: instead of the variable's.

        Raises:
            Malformed: a variable is missing, or is not what it should be; its name is the field.
        """
        given = {name: environ.get(f"{PREFIX}{name.upper()}", "") for name in cls.__dataclass_fields__}
        endpoint = endpoint or given["endpoint"] or LOCAL_ENDPOINT
        secure = given.pop("secure").lower()
        if secure not in {*_YES, *_NO}:
            raise Malformed(f"{PREFIX}SECURE", f"must be true or false, not {secure!r}")
        texts = {name: value for name, value in given.items() if value} | {"endpoint": endpoint}
        made = cls(**texts, secure=secure in _YES)
        if endpoint.rsplit(":", 1)[0] not in _LOOPBACK:
            for name in ("access_key", "secret_key"):
                if not given[name]:
                    raise Malformed(f"{PREFIX}{name.upper()}", f"is required for the store at {endpoint}")
        return made


@contextmanager
def open_store(settings: StoreSettings) -> Iterator[BaseStore]:
    """The store, until the block ends. Nothing is sent before it is used.

    Raises:
        SdkMissing: the extra `store` is not installed.
    """
    try:
        from looksmith.bases.minio_store import MinioBaseStore  # noqa: PLC0415  # its SDK is an extra
    except ModuleNotFoundError as error:
        if error.name not in {"minio", "urllib3"}:
            raise
        raise SdkMissing from None
    with MinioBaseStore(settings) as store:
        yield store
