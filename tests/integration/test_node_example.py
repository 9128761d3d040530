"""examples/node as its users start it, against servers that want TLS, a certificate and a token, and against lost ones.

Needs node, and the example's modules: `npm ci` in its folder.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

import pyexiv2
import pytest
from PIL import Image

from tests.integration.security.secured_system import secured_system
from tests.unit.looksmith.test_client import dies_within_image_one, paints_all, routers

EXAMPLE = Path(__file__).parents[2] / "examples" / "node"
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.skipif(not (EXAMPLE / "node_modules").is_dir(), reason="npm ci was not run in examples/node"),
]


async def paint(*arguments: object, **environ: object) -> tuple[int | None, str, str]:
    """Exit code, output and errors of paint.mjs, told what to dial by ``environ`` alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOOKSMITH_")}
    given = {f"LOOKSMITH_{name.upper()}": str(value) for name, value in environ.items()}
    process = await asyncio.create_subprocess_exec(
        "node", EXAMPLE / "paint.mjs", *map(str, arguments), env=kept | given, stdout=-1, stderr=-1
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_paints_by_mutual_tls_with_a_token_and_reads_the_reason_of_a_refusal(tmp_path: Path) -> None:
    async with secured_system(tmp_path) as system:
        async with asyncio.timeout(10):
            async with system.fleet() as fleet:
                while not await fleet.list_workers():  # noqa: ASYNC110  # it tells who asks
                    await asyncio.sleep(0.02)
        tls = {"tls_ca": system.ca.ca, "tls_cert": system.caller.certificate, "tls_key": system.caller.key}
        # By its name: Node warns of a TLS server that is dialled by its address
        server = {"routers": system.servers["router"].address.replace("127.0.0.1", "localhost"), **tls}
        file = tmp_path / "kite.png"
        code, out, err = await paint("acme", "a kite", file, token="token-of-acme", **server)  # noqa: S106  # no secret
        strange, _, refused = await paint("acme", "a kite", file, **server)
        absent, _, unknown = await paint("nobody", "a kite", file, token="token-of-all", **server)  # noqa: S106  # no secret
    assert code == 0, err
    with Image.open(file) as picture:
        assert (picture.format, picture.size) == ("PNG", (16, 16))
    with pyexiv2.Image(str(file)) as picture:
        seed = picture.read_xmp()["Xmp.looksmith.Seed"]
    assert f"{file}: 16 x 16, seed {seed}\nstyle@2 on worker\n" in out
    assert re.search(r"denoise \d+\.\d ms, .*, total \d+\.\d ms\n$", out)
    assert err.endswith("image 0, step 4 of 4\n")
    assert (strange, absent) == (1, 1)
    assert refused.startswith("TOKEN_UNKNOWN: ")
    assert unknown.startswith("BRAND_NOT_FOUND: ")


async def test_goes_on_at_another_router_with_seed_size_and_versions_pinned(tmp_path: Path) -> None:
    async with routers(dies_within_image_one, paints_all) as (client, (first, second)):
        code, _, err = await paint("inkwell", "a mug", tmp_path / "mug.png", 3, routers=",".join(client._addresses))
    assert code == 0, err
    assert [(tmp_path / f"mug{n}.png").read_bytes() for n in ("", "-1", "-2")] == [b"picture %d" % i for i in range(3)]
    again = second.asked[0]
    assert (again.request_id, again.seed, list(again.images_done)) == (first.asked[0].request_id, 99, [0])
    assert (again.recipe, again.width, again.height) == ("studio", 768, 512)
    assert [(a.adapter, a.version, a.weight) for a in again.adapters] == [("house-style", 3, 0.8)]
