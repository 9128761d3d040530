import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2

from looksmith.errors import Internal, InvalidField, NotFound, Unavailable, error_from_rpc, error_to_status


class ColourNotFound(NotFound):
    reason = "COLOUR_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f"colour {name!r} is not mixed", metadata={"colour": name})


def rpc_error(code: grpc.StatusCode, details: bytes | None = None) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(*([("grpc-status-details-bin", details)] if details else []))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details="it failed")


def test_status_names_reason_and_metadata() -> None:
    status = error_to_status(ColourNotFound("mauve"))
    assert status.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert status.message == "colour 'mauve' is not mixed"
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == ("COLOUR_NOT_FOUND", "looksmith", {"colour": "mauve"})


def test_status_names_the_field_at_fault() -> None:
    status = error_to_status(InvalidField("steps", "must be 1 to 8, not 99", reason="STEPS_UNSUPPORTED"))
    bad = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad)
    assert [(v.field, v.reason) for v in bad.field_violations] == [("steps", "STEPS_UNSUPPORTED")]


def test_error_survives_the_way_through_another_service() -> None:
    for sent in (
        ColourNotFound("mauve"),
        InvalidField("steps", "must be 1 to 8"),
        Unavailable("no worker", reason="NO_WORKER", retry_after_s=1.25),
    ):
        got = error_from_rpc(rpc_error(sent.code, error_to_status(sent).SerializeToString()))
        assert (got.code, got.reason, got.metadata) == (sent.code, sent.reason, sent.metadata)
        assert (got.violations, got.retry_after_s) == (sent.violations, sent.retry_after_s)


def test_error_without_details_keeps_its_code() -> None:
    got = error_from_rpc(rpc_error(grpc.StatusCode.UNAVAILABLE))
    assert (type(got), got.reason, got.message) == (Unavailable, "UNAVAILABLE", "it failed")


def test_unknown_code_becomes_internal() -> None:
    assert type(error_from_rpc(rpc_error(grpc.StatusCode.UNKNOWN))) is Internal


def test_details_of_a_foreign_type_are_passed_over() -> None:
    status = error_to_status(ColourNotFound("mauve"))
    status.details.insert(0, any_pb2.Any(type_url="type.googleapis.com/somebody.Else", value=b"\x08\x01"))
    assert error_from_rpc(rpc_error(ColourNotFound.code, status.SerializeToString())).reason == "COLOUR_NOT_FOUND"
