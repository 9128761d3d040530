import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from looksmith.v1 import adapter_pb2, brand_pb2, fleet_pb2, generation_pb2, registry_pb2
from services.router.keda import externalscaler_pb2

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).with_name("buf")
STUBS = (adapter_pb2, brand_pb2, externalscaler_pb2, fleet_pb2, generation_pb2, registry_pb2)
#: Where a .proto is that its stubs were generated from under another name.
HOMES = {"services/router/keda/externalscaler.proto": "externalscaler/externalscaler.proto"}


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
    home = HOMES.get(generated.name, generated.name)
    assert _plain(generated) == _plain(written[home]), "run `make protos`"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with the protos as they are, to be changed."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    return tmp_path


def breaking(folder: Path) -> subprocess.CompletedProcess[str]:
    """What `make lint` asks, about ``folder``."""
    argv: list[str | Path] = [BUF, "breaking", "--against", ROOT / "protos/baseline/v1.binpb"]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)


def test_the_api_breaks_nothing_that_the_baseline_promises(copied: Path) -> None:
    done = breaking(copied)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("now", "then", "complaint"),
    [
        ("  repeated Worker workers = 1;\n", "", 'field "1" with name "workers"'),
        ("  string router = 2;\n  // Release", "  bytes router = 2;\n  // Release", "bytes"),
        ("  rpc GetUsage(GetUsageRequest) returns (GetUsageResponse);\n", "", 'RPC "GetUsage"'),
        ("  WORKER_STATE_EJECTED = 3;\n", "", 'enum value "3"'),
    ],
    ids=["a field deleted", "a field of another type", "a method deleted", "an enum value deleted"],
)
def test_a_change_that_breaks_callers_is_refused(copied: Path, now: str, then: str, complaint: str) -> None:
    proto = copied / "protos/looksmith/v1/fleet.proto"
    text = proto.read_text()
    assert now in text
    proto.write_text(text.replace(now, then))
    done = breaking(copied)
    assert done.returncode != 0
    assert complaint in done.stdout


def test_a_field_that_is_added_is_no_breaking_change(copied: Path) -> None:
    proto = copied / "protos/looksmith/v1/fleet.proto"
    text = proto.read_text()
    field = "  Worker worker = 1;\n"
    assert field in text
    proto.write_text(text.replace(field, f"  uint32 of = 2;\n{field}"))
    assert breaking(copied).returncode == 0


def _plain(file: FileDescriptorProto) -> list[object]:
    """Messages, enums and services, without what buf adds to an image and what it alone spells out."""

    def forget_json_names(messages: Iterable[DescriptorProto]) -> None:
        for message in messages:
            forget_json_names(message.nested_type)
            for field in message.field:
                field.ClearField("json_name")

    forget_json_names(file.message_type)
    return [list(file.message_type), list(file.enum_type), list(file.service), file.package, list(file.dependency)]


def test_kedas_own_names_are_let_pass_and_uncommented_fields_are_not(copied: Path) -> None:
    proto = copied / "protos/externalscaler/externalscaler.proto"
    assert _lint(copied) == ""
    proto.write_text(proto.read_text().replace("  // Name of the metric.\n", ""))
    assert "metricName" in _lint(copied)


def test_names_in_the_style_of_keda_are_refused_in_the_api(copied: Path) -> None:
    proto = copied / "protos/looksmith/v1/fleet.proto"
    proto.write_text(proto.read_text().replace("uint32 jobs_left", "uint32 jobsLeft"))
    assert "jobsLeft" in _lint(copied)


def _lint(folder: Path) -> str:
    """What buf finds fault with in ``folder``."""
    return subprocess.run([BUF, "lint"], cwd=folder, capture_output=True, text=True, check=False).stdout
