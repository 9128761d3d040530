from __future__ import annotations

import subprocess
import sys

import pytest

from looksmith.bases import Malformed, Reference

DIGEST = "0123456789abcdef" * 4


def test_a_reference_reads_as_it_is_written() -> None:
    reference = Reference.parse(f"store://bases/sdxl-1@{DIGEST}")
    assert reference == Reference("sdxl-1", DIGEST)
    assert str(reference) == f"store://bases/sdxl-1@{DIGEST}"
    assert reference.folder == "sdxl-1-0123456789ab"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sdxl", "must be store://bases/NAME@SHA256, not 'sdxl'"),
        (f"store://base/sdxl@{DIGEST}", "must be store://bases/NAME@SHA256"),
        ("store://bases/sdxl", "has no digest"),
        ("store://bases/sdxl@", "has no digest"),
        ("store://bases/sdxl@0123", "has 4 of 64 digits"),
        (f"store://bases/sdxl@{DIGEST}0", "must be a SHA-256 in 64 lower-case hex digits"),
        (f"store://bases/sdxl@{DIGEST.upper()}", "must be a SHA-256 in 64 lower-case hex digits"),
        (f"store://bases/SDXL@{DIGEST}", "not 'SDXL'"),
        (f"store://bases/../x@{DIGEST}", "not '../x'"),
        (f"store://bases/@{DIGEST}", "is required"),
    ],
)
def test_what_is_no_reference_is_refused_with_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(Malformed) as refused:
        Reference.parse(text)
    assert refused.value.field == "reference"
    assert said in refused.value.description


def test_who_installs_the_package_needs_neither_numpy_nor_torch_nor_an_sdk() -> None:
    # A process of its own: other tests have all of them loaded.
    code = "import sys, looksmith.bases; print(sorted({*sys.modules} & {'numpy', 'torch', 'minio', 'typer', 'rich'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
