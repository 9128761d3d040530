"""How the time to switch brands grows with their number: the bank with hundreds, diffusers with up to sixteen.

SDXL's linear layers at full width, rank 4. Diffusers' two pipelines share one base's weights; the bank needs none.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tqdm import tqdm

from benchmarks.lora_files import rolled_lora_files
from benchmarks.measure import interleaved, timed
from benchmarks.swaps import DiffusersPair
from benchmarks.tiers_alone import DTYPE, SlotsOnly, TiersAlone
from looksmith.lora import packaged_table
from looksmith.nouns import Tier

FAMILY, RANK = "sdxl", 4
TABLE = packaged_table(FAMILY)
#: Brands on a worker's disk, and the slots that they share; 16 of them fit into host memory.
FLEETS = {2: 1, 16: 4, 64: 16, 256: 64}
ON_HOST = 16
_WAITING = 4  # adapters that wait there for a slot, among those that have just got one
RESIDENTS = (1, 2, 4, 8, 16)


def flatness(*, device: str = "cpu", repeats: int = 5) -> dict[str, float]:
    """Medians for each number of brands, and how much longer the most take than the fewest."""
    with tempfile.TemporaryDirectory(prefix="flatness-") as name:
        folder = Path(name)
        ours = _by_the_bank(folder, device, repeats=5 * repeats)
        theirs = _by_diffusers(folder, device, repeats=repeats)
    return {
        **{f"{run}_ms": seconds * 1e3 for run, seconds in {**ours, **theirs}.items()},
        "flatness_256": ours["from_host_256"] / ours["from_host_2"],
        "diffusers_flatness_16": theirs["diffusers_load_16"] / theirs["diffusers_load_1"],
    }


def _by_the_bank(folder: Path, device: str, *, repeats: int) -> dict[str, float]:
    """Workers with so many brands each take turns."""
    with ExitStack() as stack:
        switchers = {}
        for brands, slots in FLEETS.items():
            own = folder / str(brands)
            own.mkdir()
            engine = SlotsOnly(FAMILY, rank=RANK, slots=slots, device=device, compiled=own / "compiled")
            files = rolled_lora_files(TABLE, brands, rank=RANK, folder=own, dtype=DTYPE)
            tiers = TiersAlone(engine, files, folder=own / "disk", host_adapters=min(ON_HOST, brands))
            switchers[brands] = _Switcher(stack.enter_context(tiers), slots=slots)
        runs: dict[str, Callable[[int], float]] = {f"from_host_{n}": s.from_host for n, s in switchers.items()}
        return interleaved(
            {**runs, "from_disk_256": switchers[256].from_disk}, repeats=repeats, what="brands in slots", warm_up=3
        )


class _Switcher:
    """Asks a worker for brand after brand, none that is on the device."""

    def __init__(self, tiers: TiersAlone, *, slots: int) -> None:
        self._tiers, self._draw = tiers, random.Random(1)
        for digest in tqdm(tiers.digests, desc=f"{len(tiers.digests)} brands compiled", disable=None):
            tiers.to_host(digest)
        tiers.settle()
        for digest in tiers.digests[:slots]:
            tiers.to_slot(digest)
        self._next: deque[str] = deque()
        for _ in range(min(_WAITING, len(tiers.digests) - slots)):
            self._bring_another()

    def from_host(self, _turn: int) -> float:
        """From host memory into a slot that another brand holds."""
        digest = self._next.popleft()
        if self._tiers.tier_of(digest) is not Tier.HOST:
            raise RuntimeError("the adapter has left host memory")
        took = self._tiers.to_slot(digest)
        self._bring_another()
        return took

    def _bring_another(self) -> None:
        """Makes one more wait in host memory."""
        off_device = [d for d in self._tiers.digests if self._tiers.tier_of(d) is not Tier.DEVICE]
        digest = self._draw.choice([d for d in off_device if d not in self._next])
        self._tiers.to_host(digest)
        self._next.append(digest)

    def from_disk(self, _turn: int) -> float:
        """From a compiled file on disk."""
        return self._tiers.to_slot(self._draw.choice(self._on_disk()))

    def _on_disk(self) -> list[str]:
        return [digest for digest in self._tiers.digests if self._tiers.tier_of(digest) is Tier.DISK]


def _by_diffusers(folder: Path, device: str, *, repeats: int) -> dict[str, float]:
    """With so many adapters resident: to load another, to switch to one that is there; and to hotswap."""
    files = rolled_lora_files(TABLE, max(RESIDENTS) + 1, rank=RANK, folder=folder, dtype=DTYPE)
    pair = DiffusersPair(FAMILY, files[0], device=device)
    medians: dict[str, float] = {}
    resident: list[str] = []
    progress = tqdm(total=len(RESIDENTS), desc="diffusers with residents")
    for count in RESIDENTS:
        while len(resident) < count - 1:
            resident.append(f"resident-{len(resident)}")
            pair.loading.add(files[len(resident)], resident[-1])
        loads, switches = [], []
        for turn in range(repeats):
            loads.append(pair.loading.load(files[-1 - turn % 2]))
            if resident:
                switches.append(timed(partial(pair.loading.switch, resident[turn % len(resident)])))
        medians[f"diffusers_load_{count}"] = statistics.median(loads)
        if switches:
            medians[f"diffusers_set_adapters_{count}"] = statistics.median(switches)
        progress.update()
    progress.close()
    medians["diffusers_hotswap"] = statistics.median(pair.hotswapping.hotswap(files[i % 3]) for i in range(repeats))
    return medians
