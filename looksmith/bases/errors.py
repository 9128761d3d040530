"""What goes wrong with bases, as typed exceptions. Knows nothing about when.

LooksmithError
├── InvalidArgument
│   └── BaseRefused           the folder or file can't be a base; every fault by name
├── NotFound
│   ├── BaseNotFound
│   └── BucketNotFound
├── FailedPrecondition
│   ├── ConfirmationMissing
│   ├── FolderTaken           something else lies where a copy would
│   └── SdkMissing            the minio SDK is not installed
├── Aborted
│   └── FileChanged           while it was pushed
├── PermissionDenied
│   └── StoreDenied           the store does not know the keys, or does not let them
├── ResourceExhausted
│   └── DiskFull
├── Unavailable
│   └── StoreUnavailable      cut off, or out of order
├── DataLoss
│   └── BaseCorrupt           the store holds other bytes than the reference stands for
└── Internal
    └── StoreRefused          anything else that a store may say
"""

from __future__ import annotations

from collections.abc import Sequence

from looksmith.errors import (
    Aborted,
    DataLoss,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)

#: Faults that one message lists.
_MAX_SHOWN = 5


class BaseRefused(InvalidArgument):
    reason = "BASE_REFUSED"

    def __init__(self, path: object, faults: Sequence[str]) -> None:
        more = f"; and {len(faults) - _MAX_SHOWN} more" if len(faults) > _MAX_SHOWN else ""
        super().__init__(f"{path} can't be pushed: {'; '.join(faults[:_MAX_SHOWN])}{more}")
        self.faults = tuple(faults)


class BaseNotFound(NotFound):
    reason = "BASE_NOT_FOUND"

    def __init__(self, reference: object) -> None:
        super().__init__(f"the store holds no {reference}; `looksmith base list` shows what there is")


class BucketNotFound(NotFound):
    reason = "BUCKET_NOT_FOUND"

    def __init__(self, bucket: str) -> None:
        super().__init__(
            f"the store has no bucket {bucket!r}: a registry makes its own when it starts; LOOKSMITH_STORE_BUCKET "
            "names another"
        )


class ConfirmationMissing(FailedPrecondition):
    reason = "CONFIRMATION_MISSING"

    def __init__(self, name: str) -> None:
        super().__init__(f"a base is deleted when its name is given once more: --confirm {name}")


class FolderTaken(FailedPrecondition):
    reason = "FOLDER_TAKEN"

    def __init__(self, path: object) -> None:
        super().__init__(f"{path} is there and is no copy of a base: move it away, or pull into another folder")


class SdkMissing(FailedPrecondition):
    reason = "STORE_SDK_MISSING"

    def __init__(self) -> None:
        super().__init__("the object store is reached through the minio SDK: pip install 'looksmith[store]'")


class FileChanged(Aborted):
    reason = "FILE_CHANGED"

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} changed while it was being pushed, and is not in the store; push again")


class StoreDenied(PermissionDenied):
    reason = "STORE_DENIED"

    def __init__(self, cause: object) -> None:
        super().__init__(
            f"the object store says {cause}: LOOKSMITH_STORE_ACCESS_KEY and LOOKSMITH_STORE_SECRET_KEY must be those "
            "of someone who may do this in the bucket"
        )


class DiskFull(ResourceExhausted):
    reason = "DISK_FULL"

    def __init__(self, folder: object, *, needed: int, free: int) -> None:
        super().__init__(f"the disk of {folder} has {free} bytes free, and {needed} more are needed")


class StoreUnavailable(Unavailable):
    reason = "STORE_UNAVAILABLE"

    def __init__(self, endpoint: str, cause: object) -> None:
        super().__init__(f"no answer from the object store at {endpoint}: {cause}", retry_after_s=1.0)


class BaseCorrupt(DataLoss):
    reason = "BASE_CORRUPT"

    def __init__(self, reference: object, what: str) -> None:
        super().__init__(f"{reference} is damaged in the store: {what}")


class StoreRefused(Internal):
    reason = "STORE_REFUSED"

    def __init__(self, cause: object) -> None:
        super().__init__(f"the object store refused: {cause}")
