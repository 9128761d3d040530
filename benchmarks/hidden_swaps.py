"""How much of a swap anyone waits for, when every job brings an adapter that the worker has never seen.

The worker's own queue, tiers, bank and batcher, around SDXL's UNet at full width with random weights: rank 16, 128 px.
Prompts and pictures are left out: they are the same with and without adapters.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from tqdm import tqdm

from benchmarks.bases import new_model
from benchmarks.lora_files import rolled_lora_files
from benchmarks.tiers_alone import DTYPE, SlotsOnly
from looksmith.lora import packaged_table
from services.gpu_worker.clock import seconds, steady_clock
from services.gpu_worker.disk_cache import DiskCache
from services.gpu_worker.engine.bank import RowUse, with_bank
from services.gpu_worker.engine.batcher import Batcher, Picture
from services.gpu_worker.engine.protocol import (
    EngineJob,
    Event,
    ImageTask,
    JobDone,
    JobFailed,
    Stage,
    StageDone,
    StepDone,
    WeightedAdapter,
)
from services.gpu_worker.engine.recipe import file_digest
from services.gpu_worker.engine.sampler_table import sampler_table
from services.gpu_worker.engine_thread import EngineThread
from services.gpu_worker.painter import Bound, Painter
from services.gpu_worker.tiers import AdapterTiers

FAMILY, RANK, STEPS, SIDE = "sdxl", 16, 2, 128
JOBS, CONTROLS, UNLOADED = 18, 5, 3
UNDER_WAY = 3  # one is painted, one is staged, one's adapter is on its way
SLOWER_S = 0.2
_CHUNK = 1 << 20
now = steady_clock()


class StepsOnly(SlotsOnly):
    """The bank engine between prompt and picture: rows of noise, stepped with their adapters."""

    def load(self) -> None:
        super().load()
        unet: Any = with_bank(new_model(FAMILY, "unet", device=self.device, dtype=DTYPE), self._bank)
        self._batcher = Batcher(unet, self._bank, buckets=(1,), device=torch.device(self.device))
        scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
        scheduler.set_timesteps(STEPS)
        self._table = sampler_table(scheduler, steps=STEPS, eta=0)
        self._embeds = torch.randn(1, 77, unet.config.cross_attention_dim, dtype=DTYPE, device=self.device)
        self._added = {
            "text_embeds": self._embeds.new_zeros(1, 1280),
            "time_ids": self._embeds.new_tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]]),
        }
        self._running: dict[Picture, tuple[EngineJob, int]] = {}

    def start(self, job: EngineJob) -> None:
        picture = Picture(
            table=self._table,
            embeds=self._embeds,
            added=self._added,
            uses=tuple(RowUse(adapter.digest, adapter.weight) for adapter in job.adapters),
            guidance=0.0,
            latents=torch.randn(4, SIDE // 8, SIDE // 8, dtype=DTYPE, device=self.device),
            generator=torch.Generator(),
        )
        self._batcher.add(picture)
        self._running[picture] = (job, 0)

    def stop(self, job: str) -> None:
        for picture in [picture for picture, (mine, _) in self._running.items() if mine.id == job]:
            self._batcher.remove(picture)
            del self._running[picture]

    @torch.inference_mode()
    def tick(self) -> Sequence[Event]:
        began = now()
        events: list[Event] = []
        for picture, error in self._batcher.step().items():
            job, since = self._running[picture]
            if not since:
                since = began
                events.append(StageDone(job.id, Stage.BIND, began, began))
                self._running[picture] = (job, began)
            if error:
                events.append(JobFailed(job.id, error))
                continue
            events.append(StepDone(job.id, 0, picture.step, STEPS, 1))
            if picture.done:
                ended = now()
                self.stop(job.id)
                events.append(StageDone(job.id, Stage.DENOISE, since, ended, steps=STEPS, batch=1))
                events.append(JobDone(job.id, seconds(since, ended)))
        return events


class FolderFiles:
    """A store of files that takes ``delay_s`` before each."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self.delay_s = 0.0

    async def download(self, brand: str, digest: str) -> AsyncIterator[bytes]:  # noqa: ARG002  # of the port
        await asyncio.sleep(self.delay_s)
        with self._files[digest].open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                yield chunk


@dataclass(frozen=True)
class Told:
    """What one job says of itself, in seconds."""

    visible_s: float
    hidden_s: float
    denoise_s: float


def hidden_swaps(*, device: str = "cpu") -> dict[str, float]:
    """Shares and times of swaps from the store, with and without other jobs to hide behind."""
    with tempfile.TemporaryDirectory(prefix="hidden-") as name:
        folder = Path(name)
        (folder / "store").mkdir()
        made = rolled_lora_files(
            packaged_table(FAMILY), 1 + JOBS + CONTROLS, rank=RANK, folder=folder / "store", dtype=DTYPE
        )
        files = {file_digest(file): file for file in made}
        return asyncio.run(_measure(files, folder, device))


async def _measure(files: Mapping[str, Path], folder: Path, device: str) -> dict[str, float]:
    resident, *others = files
    store = FolderFiles(files)
    async with _worker(store, folder, device) as painter:
        progress = tqdm(total=1 + UNLOADED + JOBS + CONTROLS, desc="jobs")
        paint = partial(_paint, painter, progress)
        # 1. How long denoising takes when nothing else is done
        await paint(resident)
        unloaded = [await paint(resident) for _ in range(UNLOADED)]
        denoise_s = statistics.median(told.denoise_s for told in unloaded)
        # 2. A new adapter in every job, the next ones on their way; the first has nothing to hide behind
        first = asyncio.create_task(paint(resident))
        told = await _at_once(paint, others[:JOBS])
        await first
        # 3. The control: nothing on its way, and a slower store
        store.delay_s = SLOWER_S
        controls = [await paint(digest) for digest in others[JOBS:]]
    return {
        "visible_swap_share": sum(one.visible_s for one in told) / (JOBS * denoise_s),
        "visible_swap_ms": statistics.mean(one.visible_s for one in told) * 1e3,
        "hidden_swap_ms": statistics.mean(one.hidden_s for one in told) * 1e3,
        "control_visible_swap_ms": statistics.median(one.visible_s for one in controls) * 1e3,
        "unloaded_denoise_ms": denoise_s * 1e3,
        "denoise_beside_swaps": statistics.median(one.denoise_s for one in told) / denoise_s,
    }


async def _at_once(paint: Callable[[str], Any], digests: Sequence[str]) -> list[Told]:
    """A few under way at any time, in their order."""
    waiting = list(digests)
    told: list[Told] = []

    async def call() -> None:
        while waiting:
            told.append(await paint(waiting.pop(0)))

    await asyncio.gather(*(call() for _ in range(UNDER_WAY)))
    return told


async def _paint(painter: Painter, progress: Any, digest: str) -> Told:  # noqa: ANN401  # tqdm is untyped
    job = EngineJob(
        id=f"{digest}-{progress.n}-{now()}",
        brand=digest,
        recipe=FAMILY,
        prompt="",
        negative_prompt="",
        adapters=(WeightedAdapter(digest, 1.0),),
        images=(ImageTask(0, 0),),
        width=SIDE,
        height=SIDE,
        steps=STEPS,
        guidance=0.0,
    )
    visible = hidden = denoise = 0.0
    async with painter.painting(job) as painting:
        async for event in painting.events:
            match event:
                case Bound(swap=swap):
                    visible, hidden = swap.visible_s, swap.hidden_s
                case StageDone(stage=Stage.DENOISE):
                    denoise = seconds(event.start_ns, event.end_ns)
    progress.update()
    return Told(visible, hidden, denoise)


@asynccontextmanager
async def _worker(store: FolderFiles, folder: Path, device: str) -> AsyncIterator[Painter]:
    engine = StepsOnly(FAMILY, rank=RANK, slots=4, device=device, compiled=folder / "compiled")
    async with AsyncExitStack() as stack:
        thread = await stack.enter_async_context(EngineThread(engine, clock=now))
        tiers = AdapterTiers(
            disk=DiskCache(folder / "disk", limit_bytes=1 << 40),
            registry=store,
            engine_thread=thread,
            host_bytes=1 << 30,
            clock=now,
        )
        await stack.enter_async_context(tiers.running())
        painter = Painter(name="worker", engine_thread=thread, tiers=tiers, max_queued=64, clock=now)
        yield await stack.enter_async_context(painter.running())
