import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from looksmith.v1 import adapter_pb2, brand_pb2, fleet_pb2, generation_pb2, registry_pb2

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).with_name("buf")
STUBS = (adapter_pb2, brand_pb2, fleet_pb2, generation_pb2, registry_pb2)


@pytest.fixture(scope="module")
def written() -> dict[str, FileDescriptorProto]:
    """What protos/ says now, compiled by buf."""
    image = subprocess.run(
        [BUF, "build", "--exclude-source-info", "-o", "-"], cwd=ROOT, capture_output=True, check=True
    )
    return {file.name: file for file in FileDescriptorSet.FromString(image.stdout).file}


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.DESCRIPTOR.name)
def test_stubs_are_generated_from_the_committed_protos(stub: object, written: dict[str, FileDescriptorProto]) -> None:
    generated = FileDescriptorProto()
    stub.DESCRIPTOR.CopyToProto(generated)  # type: ignore[attr-defined]  # every _pb2 module has one
    assert _plain(generated) == _plain(written[generated.name]), "run `make protos`"


def _plain(file: FileDescriptorProto) -> list[object]:
    """Messages, enums and services, without what buf adds to an image and what it alone spells out."""

    def forget_json_names(messages: Iterable[DescriptorProto]) -> None:
        for message in messages:
            forget_json_names(message.nested_type)
            for field in message.field:
                field.ClearField("json_name")

    forget_json_names(file.message_type)
    return [list(file.message_type), list(file.enum_type), list(file.service), file.package, list(file.dependency)]
