"""What can go wrong, as typed exceptions, on both ends of a call. Knows nothing about any one service.

LooksmithError                    code, reason, message
├── InvalidArgument               the request is wrong, whatever the state
│   └── InvalidField              ... in one field, which it names
├── NotFound
├── AlreadyExists
├── FailedPrecondition            the request is right, the state forbids it
├── Aborted                       a compare-and-set lost: read again, decide again
├── OutOfRange
├── PermissionDenied
├── Unauthenticated
├── ResourceExhausted             a limit: carries when to come back
├── DeadlineExceeded
├── Cancelled
├── Unavailable                   come back: carries when
├── Unimplemented
├── DataLoss                      bytes are not what their digest says
└── Internal                      a bug, here or below

Services subclass these, one class a reason; an interceptor turns them into a google.rpc.Status (AIP-193).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "looksmith"


@dataclass(frozen=True)
class FieldViolation:
    """One field of a request and what is wrong with it; ``reason`` is stable where a caller may act on it."""

    field: str
    description: str
    reason: str = ""


class LooksmithError(Exception):
    """Base of everything a caller may see.

    Attributes:
        code: what grpc makes of it.
        reason: stable UPPER_SNAKE name; one a class, so that callers can act on it.
        metadata: facts for machines, such as the version that was found.
        violations: the fields at fault.
        retry_after_s: seconds after which a retry makes sense; None: say nothing.
    """

    code = grpc.StatusCode.UNKNOWN
    reason = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s


class InvalidArgument(LooksmithError):
    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"


class InvalidField(InvalidArgument):
    def __init__(self, field: str, description: str, *, reason: str | None = None) -> None:
        violation = FieldViolation(field, description, reason or self.reason)
        super().__init__(f"{field}: {description}", reason=reason, violations=[violation])


class NotFound(LooksmithError):
    code = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"


class AlreadyExists(LooksmithError):
    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "ALREADY_EXISTS"


class FailedPrecondition(LooksmithError):
    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class Aborted(LooksmithError):
    code = grpc.StatusCode.ABORTED
    reason = "ABORTED"


class OutOfRange(LooksmithError):
    code = grpc.StatusCode.OUT_OF_RANGE
    reason = "OUT_OF_RANGE"


class PermissionDenied(LooksmithError):
    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class Unauthenticated(LooksmithError):
    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class ResourceExhausted(LooksmithError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(LooksmithError):
    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class Cancelled(LooksmithError):
    code = grpc.StatusCode.CANCELLED
    reason = "CANCELLED"


class Unavailable(LooksmithError):
    code = grpc.StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"


class Unimplemented(LooksmithError):
    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"


class DataLoss(LooksmithError):
    code = grpc.StatusCode.DATA_LOSS
    reason = "DATA_LOSS"


class Internal(LooksmithError):
    code = grpc.StatusCode.INTERNAL
    reason = "INTERNAL"


_BY_CODE = {cls.code: cls for cls in LooksmithError.__subclasses__()}


def error_to_status(error: LooksmithError) -> status_pb2.Status:
    """The google.rpc.Status of an error: ErrorInfo always, BadRequest and RetryInfo where they apply."""
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(field=violation.field, description=violation.description, reason=violation.reason)
        status.details.add().Pack(bad)
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def error_from_rpc(rpc: grpc.aio.AioRpcError) -> LooksmithError:
    """What another service answered, as the exception it raised there; a router passes it on unchanged."""
    kind = _BY_CODE.get(rpc.code(), Internal)
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in _details(rpc):
        for known in (info, bad, retry):
            detail.Unpack(known)  # does nothing where the type differs
    return kind(
        rpc.details() or rpc.code().name,
        reason=info.reason or None,
        metadata=info.metadata,
        violations=[FieldViolation(v.field, v.description, v.reason) for v in bad.field_violations],
        retry_after_s=retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
    )


def _details(rpc: grpc.aio.AioRpcError) -> Iterable[any_pb2.Any]:
    for key, value in rpc.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status: status_pb2.Status = status_pb2.Status.FromString(value)
            return list(status.details)
    return ()
