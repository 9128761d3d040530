"""What the parts of a picture take in the bank by the size of its batch: a prompt, a step, decoding.

The studio model, four brands mixed. The timed engine waits for these figures; whole pictures are in batches.py.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from benchmarks.batches import HOUSE_STYLES, STEPS, house_styles, job, new_prompts, reference_engine
from services.gpu_worker.clock import seconds
from services.gpu_worker.engine.bank_engine import BankEngine
from services.gpu_worker.engine.protocol import JobFailed, Stage, StageDone

BATCHES = (1, 2, 4, 8)


def steps(*, threads: int, repeats: int) -> dict[str, float]:
    """Median milliseconds: ``step_N_ms`` of N rows, ``decode_N_ms`` of N pictures together, ``prompt_ms`` of one."""
    prompts, taken = new_prompts(), defaultdict[str, list[float]](list)
    with tempfile.TemporaryDirectory(prefix="steps-") as name:
        engine = BankEngine(
            reference_engine(threads=threads),
            slots={32: len(HOUSE_STYLES)},
            batch_sizes=BATCHES,
            compiled=Path(name) / "compiled",
            compiled_bytes=1 << 30,
        )
        try:
            engine.load()
            for brand, file in house_styles(Path(name)).items():
                engine.place(engine.read(file, brand))
            for turn in tqdm(range(1 + repeats), desc="parts of a picture"):
                for rows in BATCHES:
                    for part, took in _parts(engine, rows, prompts):
                        if turn:  # the first is for warming up
                            taken[part].append(took)
        finally:
            engine.close()
    return {f"{part}_ms": statistics.median(times) * 1e3 for part, times in sorted(taken.items())}


def _parts(engine: BankEngine, rows: int, prompts: Iterator[str]) -> Iterator[tuple[str, float]]:
    """Paints ``rows`` pictures in one batch. A tick that neither begins nor ends any is a step and nothing else."""
    for i in range(rows):
        engine.start(job(str(i), next(prompts), HOUSE_STYLES[i % len(HOUSE_STYLES)]))
    for tick in range(STEPS):
        began = time.perf_counter()
        events = engine.tick()
        took = time.perf_counter() - began
        if 0 < tick < STEPS - 1:
            yield f"step_{rows}", took
        decoded = []
        for event in events:
            match event:
                case JobFailed(error=error):
                    raise error
                case StageDone(stage=Stage.PROMPT_ENCODE, start_ns=start, end_ns=end):
                    yield "prompt", seconds(start, end)
                case StageDone(stage=Stage.VAE_DECODE, start_ns=start, end_ns=end):
                    decoded.append(seconds(start, end))
        if decoded:
            yield f"decode_{rows}", decoded[0]  # one batch: each of its pictures tells of the same time
