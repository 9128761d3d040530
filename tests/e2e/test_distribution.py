"""A second project, with a services/ folder of its own, installs the distribution and uses the stubs."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

from tests.e2e.system import ROOT, System

PROGRAM = textwrap.dedent(
    """
    import asyncio, pathlib, sys
    import grpc
    import google.protobuf
    from services.greeting import PROMPT  # the project's own package, not Looksmith's
    from looksmith.publisher import publish
    from looksmith.v1 import brand_pb2, brand_pb2_grpc, generation_pb2, generation_pb2_grpc

    registry, router, file, name = sys.argv[1:]

    async def main():
        async with grpc.aio.insecure_channel(registry) as channel:
            brand = brand_pb2.Brand(name=name, default_adapters=[{"adapter": "look"}])
            await brand_pb2_grpc.BrandServiceStub(channel).PutBrand(brand_pb2.PutBrandRequest(brand=brand))
            done = await publish(channel, pathlib.Path(file), brand=name, adapter="look", family="studio")
        with grpc.insecure_channel(router) as channel:
            request = generation_pb2.GenerateRequest(brand=name, prompt=PROMPT)
            stub = generation_pb2_grpc.ImageGenerationServiceStub(channel)
            data = b"".join(response.chunk.data for response in stub.Generate(request))
        assert data.startswith(b"\\x89PNG")
        print("protobuf", google.protobuf.__version__, "version", done.version.version, "bytes", len(data))

    asyncio.run(main())
    """
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(argv, check=True, timeout=120)
    return next(folder.glob("looksmith-*.whl"))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("protobuf", ["6", "7"])
def test_stubs_work_in_another_project(system: System, wheel: Path, tmp_path: Path, protobuf: str) -> None:
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "__init__.py").write_text("")
    (tmp_path / "services" / "greeting.py").write_text('PROMPT = "a green tree on a cream background"\n')
    (tmp_path / "program.py").write_text(PROGRAM)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    wanted = f"protobuf>={protobuf},<{int(protobuf) + 1}"
    subprocess.run([python, "-m", "pip", "install", "-q", str(wheel), wanted], check=True, timeout=200)
    file = ROOT / "models/studio/brands/voltage/house-style.safetensors"
    done = subprocess.run(
        [python, "program.py", system.registry, system.router, str(file), f"second-{protobuf}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"protobuf {protobuf}." in done.stdout
