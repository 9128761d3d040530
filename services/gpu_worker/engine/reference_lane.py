"""The reference lane: jobs that use what the bank can't hold wait here for the reference engine, one at a time.

An adapter that is in the bank, and in such a job beside one that is not, is handed over for that job's time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from looksmith.lora import LoraModule, ModuleTable
from services.gpu_worker.engine.adapters import LoraTensors
from services.gpu_worker.engine.compiler import CompiledAdapter
from services.gpu_worker.engine.protocol import EngineJob, Event, HostAdapter, JobDone, JobFailed
from services.gpu_worker.engine.reference import ReferenceEngine


class ReferenceLane:
    """Its engine must paint for nobody else. ``banked`` reads an adapter that is in the bank."""

    def __init__(self, engine: ReferenceEngine, *, banked: Callable[[str], CompiledAdapter]) -> None:
        self._engine, self._banked = engine, banked
        self._waiting: deque[tuple[EngineJob, Sequence[str]]] = deque()
        self._running: tuple[EngineJob, Sequence[str]] | None = None

    def __len__(self) -> int:
        return len(self._waiting) + (self._running is not None)

    def start(self, job: EngineJob, in_bank: Sequence[str]) -> None:
        """Takes a job; ``in_bank``: those of its adapters that are there."""
        self._waiting.append((job, in_bank))

    def stop(self, job: str) -> None:
        """Drops a job. One that has ended changes nothing."""
        self._waiting = deque(entry for entry in self._waiting if entry[0].id != job)
        if self._running and self._running[0].id == job:
            self._engine.stop(job)
            self._end()

    def curtail(self, job: str) -> bool:
        """Drops those of its pictures that have not begun; False where none is under way."""
        return self._engine.curtail(job)

    def tick(self) -> Sequence[Event]:
        if self._running is None:
            if not self._waiting:
                return ()
            self._running = self._waiting.popleft()
            job, in_bank = self._running
            try:
                for digest in in_bank:
                    tensors = as_tensors(self._banked(digest), self._engine.table)
                    self._engine.place(HostAdapter(digest, tensors.size_bytes, tensors))
                self._engine.start(job)
            except Exception as error:  # noqa: BLE001  # whatever peft raises ends this job, not the worker
                self._end()
                return [JobFailed(job.id, error)]
        events = self._engine.tick()
        if any(isinstance(event, JobDone | JobFailed) for event in events):
            self._end()
        return events

    def _end(self) -> None:
        if self._running:
            for digest in self._running[1]:
                self._engine.evict(digest)
        self._running = None


def as_tensors(adapter: CompiledAdapter, table: ModuleTable) -> LoraTensors:
    """A compiled adapter as the reference engine takes it. Alpha is in B already, so it is given as the rank."""
    modules, tensors = [], {}
    in_unet = {f"unet.{path}": halves for path, halves in adapter.unet.items()}
    for name, (down, up) in {**in_unet, **adapter.text}.items():
        component, _, path = name.partition(".")
        layer, rank = table.components[component][path], down.shape[0]
        module = LoraModule(
            component=component,
            path=path,
            kind=layer.kind,
            rank=rank,
            alpha=float(rank),
            in_features=layer.in_features,
            out_features=layer.out_features,
            kernel=layer.kernel,
            down=f"{name}.lora_A.weight",
            up=f"{name}.lora_B.weight",
        )
        modules.append(module)
        tensors[module.down] = down.reshape(layer.down_shape(rank))
        tensors[module.up] = up.reshape(layer.up_shape(rank))
    return LoraTensors(tuple(modules), tensors)
