"""What the registry refuses, as typed exceptions. Knows nothing about when.

LooksmithError
├── InvalidArgument
│   └── AdapterRefused        the file is no good; one violation a finding
├── NotFound
│   ├── BrandNotFound
│   ├── AdapterNotFound
│   ├── AliasNotFound
│   ├── VersionNotFound
│   ├── DigestNotFound
│   └── UploadNotFound
├── AlreadyExists
│   ├── RequestIdReused
│   └── PublishedForOtherFamily
├── FailedPrecondition
│   ├── AdapterYanked
│   ├── ConfirmationMissing
│   ├── NothingToRollBack
│   ├── StoreNotConforming    it cannot be trusted with writes; reads go on
│   ├── SeqNotReached
│   └── VersionAliased        it is in use, and neither replaced nor yanked by force
├── Aborted
│   ├── AliasMoved
│   ├── BrandVersionMismatch
│   └── LogContended          too many others wrote to the same log
├── OutOfRange
│   ├── OffsetBeyondEnd
│   └── UploadOffset          another part of the file is held than a publisher goes on from
├── ResourceExhausted
│   └── BrandQuota
├── Unavailable
│   ├── StoreUnavailable      nothing was changed
│   │   └── StoreNotProbed    ... since nobody knows yet whether it can be trusted with writes
│   ├── OutcomeUnknown        the change may have happened
│   ├── PublicationTooSlow    its file may be collected before it is named
│   └── RegistryStopping      a watch ends; another replica goes on with it
├── DataLoss
│   ├── ChunkCorrupt          of an upload
│   ├── DigestMismatch        of an upload
│   └── RecordCorrupt         in the store
└── Internal
    └── StoreRefused          credentials, permissions, a bucket that is gone
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from looksmith.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
)
from looksmith.lora import LoraError
from looksmith.nouns import AdapterRef, AdapterVersion

#: Characters of one finding that travel. Details go as trailers, of which gRPC takes 8 KiB in all.
_MAX_FINDING_CHARACTERS = 200
#: Aliases that one message lists, for the same reason.
_MAX_ALIASES_SHOWN = 10


class AdapterRefused(InvalidArgument):
    """The reason of each violation is a code of looksmith.lora; the first of a code also says why and what to do."""

    reason = "ADAPTER_REFUSED"

    def __init__(self, error: LoraError) -> None:
        explained = set()
        violations = []
        for problem in error.problems:
            description = problem.what[:_MAX_FINDING_CHARACTERS]
            if problem.code not in explained:
                description += f". {problem.code.why} {problem.code.fix}"
            explained.add(problem.code)
            violations.append(FieldViolation("chunk", description, problem.code.name))
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(f"{violations[0].reason}: {violations[0].description}{more}", violations=violations)


class BrandNotFound(NotFound):
    reason = "BRAND_NOT_FOUND"

    def __init__(self, brand: str) -> None:
        super().__init__(f"brand {brand!r} has no record; PutBrand makes one", metadata={"brand": brand})


class AdapterNotFound(NotFound):
    reason = "ADAPTER_NOT_FOUND"

    def __init__(self, brand: str, adapter: str) -> None:
        super().__init__(
            f"{brand}/{adapter} is not registered; its first version is yet to be published",
            metadata={"brand": brand, "adapter": adapter},
        )


class AliasNotFound(NotFound):
    reason = "ALIAS_NOT_FOUND"

    def __init__(self, brand: str, adapter: str, alias: str, known: Iterable[str]) -> None:
        shown = ", ".join(sorted(known)[:_MAX_ALIASES_SHOWN]) or "none"
        super().__init__(f"{brand}/{adapter} has no alias {alias!r}; it has {shown}", metadata={"alias": alias})


class VersionNotFound(NotFound):
    reason = "VERSION_NOT_FOUND"

    def __init__(self, brand: str, adapter: str, version: int, newest: int, *, field: str = "") -> None:
        message = f"{brand}/{adapter} has no version {version}; it has 1 to {newest}"
        violations = _violation(field, message, self.reason)
        super().__init__(message, metadata={"version": str(version)}, violations=violations)


class DigestNotFound(NotFound):
    reason = "DIGEST_NOT_FOUND"

    def __init__(self, owner: str, digest: str) -> None:
        super().__init__(
            f"{owner} never had a file of digest {digest}; ListAdapterVersions tells those it has",
            metadata={"digest": digest},
        )


class UploadNotFound(NotFound):
    reason = "UPLOAD_NOT_FOUND"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"nothing is held of an upload with request_id {request_id!r}; send the file from its start")


class RequestIdReused(AlreadyExists):
    """``version``: what it published; 0: nothing yet, its upload is unfinished."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self, request_id: str, version: int, digest: str) -> None:
        what = f"published another file, version {version}" if version else "is that of another unfinished upload"
        super().__init__(
            f"request_id {request_id!r} {what}; choose another id",
            metadata={"version": str(version), "digest": digest},
        )


class PublishedForOtherFamily(AlreadyExists):
    """The adapter holds this very file, for a base of another family than is asked for now."""

    reason = "FAMILY_DIFFERS"

    def __init__(self, version: AdapterVersion, family: str) -> None:
        name = f"{version.brand}/{version.adapter}@{version.version}"
        message = f"{name} is this file, for the family {version.manifest.family!r}, not {family!r}"
        super().__init__(
            message,
            metadata={"version": str(version.version), "family": version.manifest.family},
            violations=_violation("family", message, self.reason),
        )


class AdapterYanked(FailedPrecondition):
    """``named_by``: the alias by which it was asked for. ``field``: where it was named besides the reference."""

    reason = "ADAPTER_YANKED"

    def __init__(self, version: AdapterVersion, *, named_by: str = "", field: str = "") -> None:
        name = f"{version.brand}/{version.adapter}@{version.version}"
        what = f", which {named_by!r} names," if named_by else ""
        message = f"{name}{what} was withdrawn; ListAdapterVersions tells those that are ready"
        super().__init__(message, metadata={"adapter": name}, violations=_violation(field, message, self.reason))


class ConfirmationMissing(FailedPrecondition):
    reason = "CONFIRMATION_MISSING"

    def __init__(self, brand: str) -> None:
        told = f"erasing brand {brand!r} cannot be undone: repeat its name in confirm_name"
        super().__init__(told, violations=_violation("confirm_name", told, self.reason))


class NothingToRollBack(FailedPrecondition):
    reason = "NOTHING_TO_ROLL_BACK"

    def __init__(self, alias: str) -> None:
        super().__init__(f"alias {alias!r} has never named another version", metadata={"alias": alias})


class StoreNotConforming(FailedPrecondition):
    """The message tells what the store did; a replica learns at its start alone whether that has changed."""

    reason = "STORE_NOT_CONFORMING"

    def __init__(self, broken: Mapping[str, str]) -> None:
        rules = "; ".join(f"{rule}: {what}" for rule, what in broken.items())
        super().__init__(
            f"nothing is written, for the object store breaks what the registry relies on: {rules}",
            metadata={"rules": ", ".join(broken)},
        )


class SeqNotReached(FailedPrecondition):
    reason = "SEQ_NOT_REACHED"

    def __init__(self, ref: AdapterRef, wanted: int, found: int) -> None:
        super().__init__(
            f"the log of {ref.brand}/{ref.adapter} ends at {found}, before min_seq {wanted}",
            metadata={"seq": str(found)},
        )


class VersionAliased(FailedPrecondition):
    reason = "VERSION_ALIASED"

    def __init__(self, version: AdapterVersion, aliases: Sequence[str]) -> None:
        name = f"{version.brand}/{version.adapter}@{version.version}"
        shown = ", ".join(aliases[:_MAX_ALIASES_SHOWN])
        more = f" and {len(aliases) - _MAX_ALIASES_SHOWN} more" if len(aliases) > _MAX_ALIASES_SHOWN else ""
        super().__init__(
            f"{name} is named by {shown}{more}: give a replacement, or force it, and they are refused",
            metadata={"adapter": name, "aliases": shown},
        )


class AliasMoved(Aborted):
    reason = "ALIAS_MOVED"

    def __init__(self, alias: str, *, expected: int, found: int) -> None:
        names = f"names version {found}" if found else "does not exist"
        wanted = f"version {expected}" if expected else "none"
        super().__init__(f"alias {alias!r} {names}; expected {wanted}", metadata={"version": str(found)})


class BrandVersionMismatch(Aborted):
    reason = "BRAND_VERSION_MISMATCH"

    def __init__(self, brand: str, *, expected: int, found: int) -> None:
        message = f"the record of brand {brand!r} has version {found}, not {expected}"
        super().__init__(message, metadata={"version": str(found)})


class LogContended(Aborted):
    reason = "LOG_CONTENDED"

    def __init__(self, tries: int) -> None:
        super().__init__(f"others wrote to the same log {tries} times over; try again", retry_after_s=1.0)


class OffsetBeyondEnd(OutOfRange):
    reason = "OFFSET_BEYOND_END"

    def __init__(self, offset: int, size: int) -> None:
        super().__init__(f"offset {offset} lies beyond the end of a file of {size} bytes")


class UploadOffset(OutOfRange):
    reason = "UPLOAD_OFFSET"

    def __init__(self, offset: int, *, held: int) -> None:
        super().__init__(
            f"the upload can't go on at {offset}: {held} bytes are held; go on there",
            metadata={"received_bytes": str(held)},
        )


class BrandQuota(ResourceExhausted):
    reason = "BRAND_QUOTA"

    def __init__(self, brand: str, *, limit: int, needed: int) -> None:
        super().__init__(
            f"the files of brand {brand!r} would take {needed} bytes; its limit is {limit}",
            metadata={"limit": str(limit), "needed": str(needed)},
        )


class StoreUnavailable(Unavailable):
    reason = "STORE_UNAVAILABLE"

    def __init__(self, cause: object) -> None:
        super().__init__(f"the object store cannot be reached: {cause}", retry_after_s=1.0)


class StoreNotProbed(StoreUnavailable):
    reason = "STORE_NOT_PROBED"

    def __init__(self, cause: object) -> None:
        Unavailable.__init__(
            self, f"nothing is written before the object store has been probed: {cause}", retry_after_s=2.0
        )


class OutcomeUnknown(Unavailable):
    reason = "OUTCOME_UNKNOWN"

    def __init__(self) -> None:
        super().__init__(
            "the object store did not say whether the change was made; repeat the call to find out", retry_after_s=2.0
        )


class RegistryStopping(Unavailable):
    reason = "REGISTRY_STOPPING"

    def __init__(self) -> None:
        super().__init__("this registry is stopping; watch another one, or this one anew", retry_after_s=1.0)


class PublicationTooSlow(Unavailable):
    reason = "PUBLICATION_TOO_SLOW"

    def __init__(self) -> None:
        super().__init__(
            "the version was not recorded soon enough after its file had come; repeat the call", retry_after_s=1.0
        )


class ChunkCorrupt(DataLoss):
    reason = "CHUNK_CORRUPT"

    def __init__(self, offset: int, size: int) -> None:
        super().__init__(
            f"the chunk of {size} bytes at {offset} does not have the CRC-32 that came with it; send it again",
            metadata={"offset": str(offset)},
        )


class DigestMismatch(DataLoss):
    reason = "DIGEST_MISMATCH"

    def __init__(self, *, announced: str, received: str) -> None:
        super().__init__(
            f"the bytes received have the digest {received}, not {announced}; send the file again",
            metadata={"received": received},
        )


class RecordCorrupt(DataLoss):
    reason = "RECORD_CORRUPT"

    def __init__(self, key: str, fault: object) -> None:
        super().__init__(f"the record {key} cannot be trusted: {fault}", metadata={"key": key})


class StoreRefused(Internal):
    reason = "STORE_REFUSED"

    def __init__(self, cause: object) -> None:
        super().__init__(f"the object store refused: {cause}")


def _violation(field: str, description: str, reason: str) -> list[FieldViolation]:
    return [FieldViolation(field, description, reason)] if field else []
