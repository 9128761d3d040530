"""The reference lane: jobs that use what the bank can't hold wait here for the reference engine, one at a time.

An adapter that is in the bank, and in such a job beside one that is not, is handed over for that job's time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from looksmith.lora import ModuleTable
from services.gpu_worker.engine.adapters import LoraTensors
from services.gpu_worker.engine.compiler import CompiledAdapter
from services.gpu_worker.engine.protocol import EngineJob, Event, HostAdapter, JobDone, JobFailed
from services.gpu_worker.engine.reference import ReferenceEngine


class ReferenceLane:
    """Its engine must paint for nobody else."""

    def __init__(self, engine: ReferenceEngine) -> None:
        self._engine = engine
        self._waiting: deque[tuple[EngineJob, Mapping[str, CompiledAdapter]]] = deque()
        self._running: tuple[EngineJob, Mapping[str, CompiledAdapter]] | None = None

    def __len__(self) -> int:
        return len(self._waiting) + (self._running is not None)

    def start(self, job: EngineJob, compiled: Mapping[str, CompiledAdapter]) -> None:
        """Takes a job; ``compiled``: those of its adapters that are in the bank's form."""
        self._waiting.append((job, compiled))

    def stop(self, job: str) -> None:
        """Drops a job. One that has ended changes nothing."""
        self._waiting = deque(entry for entry in self._waiting if entry[0].id != job)
        if self._running and self._running[0].id == job:
            self._engine.stop(job)
            self._end()

    def tick(self) -> Sequence[Event]:
        if self._running is None:
            if not self._waiting:
                return ()
            self._running = self._waiting.popleft()
            job, compiled = self._running
            try:
                for digest, adapter in compiled.items():
                    tensors = as_tensors(adapter, self._engine.table)
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
    for module in adapter.plan.modules:
        down, up = adapter.plan.halves(module, adapter.buffer)
        layer = table.components[module.component][module.path]
        as_given = replace(
            module,
            alpha=float(module.rank),
            down=f"{module.name}.lora_A.weight",
            up=f"{module.name}.lora_B.weight",
        )
        modules.append(as_given)
        tensors[as_given.down] = down[: module.rank].reshape(layer.down_shape(module.rank))
        tensors[as_given.up] = up[:, : module.rank].reshape(layer.up_shape(module.rank))
    return LoraTensors(tuple(modules), tensors)
