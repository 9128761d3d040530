"""A registry whose network to the store loses answers: is what it tells publishers true?

Knows what was asked and what was answered; compares with the log as a replica with a good network reads it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
from safetensors.numpy import save
from tqdm import tqdm

from benchmarks.unreliable_proxy import Mischief
from looksmith.errors import LooksmithError
from looksmith.lora import packaged_table
from services.registry.client import RegistryClient, measured
from services.registry.messages import PublishHeader

FAMILY, BRAND = "studio", "acme"
OPERATIONS, ADAPTERS, AT_ONCE = 1000, 25, 8
TRIES, PAUSE_S, DEADLINE_S = 20, 0.1, 120.0
_SEEDS = 5_000_000  # apart from those of other parts


def small_file(seed: int) -> bytes:
    """An adapter of one layer; another for each seed."""
    path, layer = next(
        (path, layer) for path, layer in packaged_table(FAMILY).components["unet"].items() if layer.kind == "linear"
    )
    generator = np.random.default_rng(seed)
    name = f"unet.{path}"
    return save(
        {
            f"{name}.lora_A.weight": generator.standard_normal(layer.down_shape(1), np.float32),
            f"{name}.lora_B.weight": generator.standard_normal(layer.up_shape(1), np.float32),
        }
    )


def header(data: bytes, adapter: str) -> PublishHeader:
    digest, size = measured([data])
    return PublishHeader(BRAND, adapter, FAMILY, digest, size)


class LostAnswers:
    """Publications, and moves of aliases that nobody else moves.

    A publisher that was told of an error asks again with the same request id, as its client would, until it has its
    one version. A move is asked for once: what was refused as unavailable must not have happened.
    """

    def __init__(self, truth: RegistryClient, unreliable: Sequence[RegistryClient], mischief: Mischief) -> None:
        self._truth, self._unreliable, self._mischief = truth, unreliable, mischief
        self._wrong: Counter[str] = Counter()
        self._told: Counter[str] = Counter()  # what was answered first
        self._published: dict[str, dict[int, str]] = {f"lost-{n}": {} for n in range(ADAPTERS)}
        self._moves: dict[str, dict[str, bool]] = {f"lost-{n}": {} for n in range(ADAPTERS)}
        self._random = Random(5)

    async def run(self) -> dict[str, float]:
        turns = asyncio.Semaphore(AT_ONCE)
        progress = tqdm(total=OPERATIONS, desc="operations over a bad network")

        async def operation(number: int) -> None:
            async with turns:
                publishes = number < ADAPTERS or self._random.random() < 1 / 2
                await (self._publish if publishes else self._move)(number)
                progress.update()

        await asyncio.gather(*map(operation, range(ADAPTERS)))  # every adapter has a version then
        await asyncio.gather(*map(operation, range(ADAPTERS, OPERATIONS)))
        progress.close()
        await asyncio.sleep(self._mischief.late_by_s[1] + 2)  # the last late ones have come, and replicas have looked
        for adapter in self._published:
            await self._compare(adapter)
        for what, count in self._wrong.items():
            if count:
                print(f"wrong: {what}: {count}")
        print("told at first:", dict(self._told))
        return {
            "lost_ack_wrong": float(sum(self._wrong.values())),
            "lost_ack_operations": float(OPERATIONS),
            "lost_ack_unknown_share": self._told["OUTCOME_UNKNOWN"] / OPERATIONS,
            "lost_ack_unavailable_share": self._told["STORE_UNAVAILABLE"] / OPERATIONS,
            "lost_ack_lost_answers": float(self._mischief.lost),
            "lost_ack_late_puts": float(self._mischief.late),
        }

    async def _publish(self, number: int) -> None:
        adapter, data = f"lost-{number % ADAPTERS}", await asyncio.to_thread(small_file, _SEEDS + number)
        announced = replace(header(data, adapter), request_id=f"request-{number}")
        registry = self._unreliable[number % len(self._unreliable)]
        for attempt in range(TRIES):
            try:
                answer = await registry.publish(announced, [data], deadline_s=DEADLINE_S)
            except LooksmithError as error:
                self._told[error.reason] += attempt == 0
                await asyncio.sleep(PAUSE_S)
                continue
            self._told["OK"] += attempt == 0
            digest = announced.digest
            self._wrong["another's answer"] += answer.already_existed or answer.version.digest != digest
            known = self._published[adapter].setdefault(answer.version.version, digest)
            self._wrong["one number for two files"] += known != digest
            return
        self._wrong["never answered"] += 1

    async def _move(self, number: int) -> None:
        adapter, alias = f"lost-{number % ADAPTERS}", f"alias-{number}"
        registry = self._unreliable[number % len(self._unreliable)]
        try:
            await registry.set_alias(BRAND, adapter, alias, 1, expected_version=0, deadline_s=DEADLINE_S)
        except LooksmithError as error:
            self._told[error.reason] += 1
            if error.reason == "STORE_UNAVAILABLE":
                self._moves[adapter][alias] = False
            elif error.reason != "OUTCOME_UNKNOWN":
                self._wrong[f"shown: {error.reason}"] += 1
        else:
            self._told["OK"] += 1
            self._moves[adapter][alias] = True

    async def _compare(self, adapter: str) -> None:
        """What was told of an adapter with what its log says."""
        told = self._published[adapter]
        page = await self._truth.list_versions(BRAND, adapter, page_size=1000)
        listed = {version.version: version.digest for version in page.items}
        self._wrong["the log says otherwise"] += sum(listed.get(number) != digest for number, digest in told.items())
        self._wrong["the same file twice"] += len(set(listed.values())) != len(listed)
        self._wrong["other versions than were told"] += len(listed) != len(told)
        aliases = {alias.name for alias in (await self._truth.get_adapter(BRAND, adapter)).aliases}
        for alias, done in self._moves[adapter].items():
            self._wrong["a move that was not so"] += (alias in aliases) != done
