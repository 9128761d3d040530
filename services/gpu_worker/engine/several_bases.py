"""Several bases in one engine: each job goes to the engine of its recipe, each adapter to those of its family.

Engines of one family take the same adapters and may share a bank. Knows of engines what their protocol says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from looksmith.lora import Code, LoraError
from services.chassis.painting import RecipeFacts
from services.gpu_worker.engine.protocol import PEFT, Engine, EngineJob, Event, HostAdapter, JobDone, JobFailed

T = TypeVar("T")


@dataclass(frozen=True)
class _OfFamily:
    """An adapter as the engines of one family take it."""

    family: str
    adapter: HostAdapter = field(repr=False)


class SeveralBases:
    """``engines``: not loaded yet, each of one base; the first is for requests that name no recipe."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = list(engines)
        self._open = ExitStack()
        self._by_recipe: dict[str, Engine] = {}
        self._by_family: dict[str, list[Engine]] = {}
        self._later: dict[str, HostAdapter] = {}  # each is placed in the first job's engine that needs it
        self._owner: dict[str, Engine] = {}  # of running jobs
        self._next = 0  # whose turn it is

    @property
    def name(self) -> str:
        return self._engines[0].name

    @property
    def device(self) -> str:
        return self._engines[0].device

    @property
    def max_rows(self) -> int:
        return min(engine.max_rows for engine in self._engines)

    @property
    def max_jobs(self) -> int:
        return min(engine.max_jobs for engine in self._engines)

    @property
    def places(self) -> Mapping[str, int]:
        return {
            _kind(family, kind): count
            for family, engines in self._by_family.items()
            for kind, count in engines[0].places.items()
        }

    @property
    def recipes(self) -> Sequence[RecipeFacts]:
        return [recipe for engine in self._engines for recipe in engine.recipes]

    def load(self) -> None:
        for engine in self._engines:
            self._open.callback(engine.close)
            engine.load()
            for recipe in engine.recipes:
                self._by_recipe[recipe.name] = engine
            self._by_family.setdefault(engine.recipes[0].family, []).append(engine)

    def close(self) -> None:
        self._open.close()

    def dropped_words(self, recipe: str, prompt: str) -> str:
        return self._by_recipe[recipe].dropped_words(recipe, prompt)

    def host_size(self, path: Path, digest: str) -> int:
        return self._fitting(lambda engine: engine.host_size(path, digest))[1]

    def read(self, path: Path, digest: str) -> HostAdapter:
        family, adapter = self._fitting(lambda engine: engine.read(path, digest))
        return replace(adapter, payload=_OfFamily(family, adapter), kind=_kind(family, adapter.kind))

    def keep(self, adapter: HostAdapter) -> None:
        engines, own = self._unpacked(adapter)
        engines[0].keep(own)

    def forget(self, digest: str) -> None:
        for engines in self._by_family.values():
            engines[0].forget(digest)

    def place(self, adapter: HostAdapter) -> None:
        engines, own = self._unpacked(adapter)
        if own.kind == PEFT:  # peft layers take a second to build, for each base: for those alone that need them
            self._later[adapter.digest] = own
            return
        for engine in engines:
            engine.place(own)

    def evict(self, digest: str) -> None:
        self._later.pop(digest, None)
        for engine in self._engines:
            engine.evict(digest)

    def start(self, job: EngineJob) -> None:
        engine = self._by_recipe[job.recipe]
        for adapter in job.adapters:
            if adapter.digest in self._later:
                engine.place(self._later[adapter.digest])
        engine.start(job)
        self._owner[job.id] = engine

    def stop(self, job: str) -> None:
        if engine := self._owner.pop(job, None):
            engine.stop(job)

    def curtail(self, job: str) -> bool:
        engine = self._owner.get(job)
        return engine is not None and engine.curtail(job)

    def tick(self) -> Sequence[Event]:
        for _ in self._engines:
            engine = self._engines[self._next]
            self._next = (self._next + 1) % len(self._engines)
            if events := engine.tick():
                for event in events:
                    if isinstance(event, JobDone | JobFailed):
                        self._owner.pop(event.job, None)
                return events
        return ()

    def _fitting(self, ask: Callable[[Engine], T]) -> tuple[str, T]:
        """The first family whose base a file fits, and what its engine says of the file.

        Raises:
            LoraError: it fits none; of the family that it was made for, if that can be told.
        """
        refusals: list[LoraError] = []
        for family, engines in self._by_family.items():
            try:
                return family, ask(engines[0])
            except LoraError as error:
                refusals.append(error)
        raise min(refusals, key=lambda error: error.problems[0].code is Code.E_BASE)

    def _unpacked(self, adapter: HostAdapter) -> tuple[list[Engine], HostAdapter]:
        if not isinstance(adapter.payload, _OfFamily):
            raise TypeError("the adapter was read by another engine")
        return self._by_family[adapter.payload.family], adapter.payload.adapter


def _kind(family: str, kind: str) -> str:
    return f"{family}/{kind}"
