"""How long a worker takes from its start until it serves, and its memory: the studio model, SD 1.5 and SDXL.

python -m benchmarks.readiness --json FILE [--only studio,sd15,sdxl] [--reduced]

SD 1.5 and SDXL have random weights at full size, in bf16, as diffusers folders of 2 and 7 GB under the folder for
temporary files; they have just been written, so that a system with room for them reads them from memory. Starting
includes fusing the distillation and the first picture, which warms the worker up.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import grpc
from tqdm import tqdm

from benchmarks.random_bases import write_served
from benchmarks.report import report
from looksmith.cli.processes import Processes
from looksmith.cli.stack import CHECKOUT, free_run, is_serving

#: By family: the recipe, and how often a worker with it is started.
RECIPES = {"studio": ("studio", 3), "sd15": ("sd15-hyper", 2), "sdxl": ("sdxl-hyper", 2)}
#: SDXL's first picture of 1024 pixels takes minutes on a CPU.
READY_WITHIN_S = 3600.0
STOP_WITHIN_S = 60.0
#: Of the bank: as few as a worker may have, so that the base is what is weighed.
SLOTS = "8:6"
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


def processes_in(folder: Path) -> Processes:
    """To be entered; their logs lie in the folder."""
    return Processes(folder / "logs", cwd=CHECKOUT, environ=os.environ, stop_within_s=STOP_WITHIN_S)


async def started_worker(processes: Processes, folder: Path, recipe: Path, **settings: object) -> tuple[str, float]:
    """The address of a worker once its health says SERVING, and the seconds since its process was started."""
    port = free_run(1)
    began = time.perf_counter()
    await processes.start(
        "worker",
        [sys.executable, "-m", "services.gpu_worker"],
        **{
            "WORKER_NAME": "worker",
            "WORKER_PORT": port,
            "WORKER_REGISTRY": "127.0.0.1:1",
            "WORKER_RECIPES": recipe,
            "WORKER_DISK_CACHE": folder / "disk",
            "WORKER_SLOTS": SLOTS,
            **settings,
        },
    )
    address = f"127.0.0.1:{port}"
    async with grpc.aio.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 100)]) as channel:
        await processes.until("worker", partial(is_serving, channel), within_s=READY_WITHIN_S)
    return address, time.perf_counter() - began


def peak_mib(pid: int) -> float:
    """The most memory that a process has had resident, mapped files included, its helper processes left out."""
    told = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    return int(told[1]) / 1024 if told else 0.0


async def one_start(folder: Path, recipe: Path) -> tuple[float, float]:
    """Seconds until a worker serves, and its peak of memory in MiB."""
    async with processes_in(folder) as processes:
        _, seconds = await started_worker(processes, folder, recipe)
        return seconds, peak_mib(processes.pid("worker"))


def readiness(family: str, *, reduced: bool) -> dict[str, float]:
    name, starts = RECIPES[family]
    with tempfile.TemporaryDirectory(prefix="readiness-") as temporary:
        folder = Path(temporary)
        recipe = CHECKOUT / "deploy" / "recipes" / "studio.toml"
        if family != "studio":
            recipe = write_served(name, folder, reduced=reduced).recipe
        took = [
            asyncio.run(one_start(folder / str(number), recipe))
            for number in tqdm(range(starts), desc=f"{family}: starts", disable=None)
        ]
    return {
        f"worker_ready_s_{family}": statistics.median(seconds for seconds, _ in took),
        f"worker_peak_mib_{family}": max(peak for _, peak in took),
        f"worker_starts_{family}": float(starts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", default=",".join(RECIPES), help="families, separated by commas; all: %(default)s")
    parser.add_argument("--reduced", action="store_true", help="narrow models, to try the benchmark itself")
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    for family in arguments.only.split(","):
        figures |= readiness(family, reduced=arguments.reduced)
    sys.exit(not report(figures, {}, file=arguments.json, reduced=arguments.reduced))


if __name__ == "__main__":
    main()
