"""What is read back from the object store, where a strange hand, a bad disk or a newer release may have written it.

Each input is put in the place of a good object of a registry in memory, whose readers then look at it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from benchmarks.fuzzing.adapter_files import FILES, JSON_WORDS
from benchmarks.fuzzing.parcels import packed, parts_of
from benchmarks.fuzzing.target import Target
from looksmith import convert
from looksmith.bases import manifest
from looksmith.errors import LooksmithError
from looksmith.lora import Limits, LoraError, packaged_table, table_from_json, table_to_json
from looksmith.nouns import AdapterRef, Brand
from services.registry import layout
from services.registry.commit_log import Surroundings
from services.registry.content import measured
from services.registry.convert import event_to_pb, upload_state_to_pb
from services.registry.core import Core, assemble
from services.registry.judging import judging
from services.registry.messages import PublishHeader
from services.registry.object_store import InMemoryObjectStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
_STUDIO = packaged_table("studio")
_LOOP = asyncio.new_event_loop()


def run(work: Awaitable[Any]) -> Any:  # noqa: ANN401  # as the work has it
    """On one loop for all inputs: making one takes longer than most parsers."""
    return _LOOP.run_until_complete(work)


async def _at_once(_seconds: float) -> None:
    await asyncio.sleep(0)


def in_memory(store: InMemoryObjectStore, *, part_bytes: int = 256) -> Core:
    """A registry on a store, for which it is always the same moment."""
    return assemble(
        store=store,
        judging=judging({"studio": _STUDIO}, Limits()),
        around=Surroundings(writer="fuzzing", wall_clock=lambda: NOW, sleep=_at_once, new_id=lambda: "0" * 32),
        head_max_age_s=0.0,
        part_bytes=part_bytes,
    )


def furnished() -> InMemoryObjectStore:
    """With a brand, acme, and an adapter of two versions, look."""
    store = InMemoryObjectStore(wall_clock=lambda: NOW)
    core = in_memory(store)

    async def furnish() -> None:
        await core.brands.put(Brand("acme"), None)
        for file in FILES[:2]:
            await core.publisher.publish(header_of(file), _chunks(file))

    run(furnish())
    return store


def header_of(file: bytes, **fields: Any) -> PublishHeader:  # noqa: ANN401  # values of its fields
    digest, size = measured([file])
    return PublishHeader(**{
        "brand": "acme", "adapter": "look", "family": "studio", "digest": digest, "size_bytes": size, **fields,
    })  # fmt: skip


async def _chunks(file: bytes) -> Any:  # noqa: ANN401  # an async iterator
    yield file


_GOOD = furnished().objects
_ADAPTER, _BRAND = layout.slot(layout.adapter_log("acme", "look"), 2), layout.slot(layout.brand_log("acme"), 1)


@dataclass(frozen=True)
class _Instead:
    """Puts an input in place of the object of a key, and has a registry that has just started look at it."""

    key: str
    look: Callable[[Core], Awaitable[object]]

    def __call__(self, data: bytes) -> object:
        store = InMemoryObjectStore(wall_clock=lambda: NOW)
        store.objects = {**_GOOD, self.key: data}
        return run(self.look(in_memory(store)))


async def _read_adapter(core: Core) -> object:
    """All that callers may be shown of it, as they are shown it."""
    adapter = await core.catalog.get("acme", "look")
    versions = (await core.catalog.list_versions("acme", "look", 100, "")).items
    history = (await core.catalog.history("acme", "look", 100, "", at_time=None)).items
    shown = [convert.adapter_to_pb(adapter), *map(convert.version_to_pb, versions), *map(event_to_pb, history)]
    resolved = await core.catalog.resolve(AdapterRef("acme", "look"), 0)
    return [*shown, convert.version_to_pb(resolved.version)]


async def _read_brand(core: Core) -> object:
    return convert.brand_to_pb(await core.brands.get("acme"))


async def _read_upload(core: Core) -> object:
    return upload_state_to_pb(await core.uploads.state("acme", "a-request"))


def _session(*, size: int) -> bytes:
    """The record of an upload that has begun."""
    fields = {"upload_id": "0" * 32, "adapter": "look", "digest": "3" * 64, "size_bytes": size}
    return json.dumps({**fields, "start_time": NOW.isoformat()}).encode()


def _keys(data: bytes) -> object:
    """Objects with a strange name, in each of the places that are listed."""
    name = data[:200].decode("utf-8", "replace").replace("\0", "")
    store = InMemoryObjectStore(wall_clock=lambda: NOW)
    blob = layout.blob("acme", "3" * 64, "0" * 32)
    places = (
        layout.FEED, layout.PROBES, layout.CLOCK, layout.adapter_log("acme", "look"), layout.brand_log("acme"),
        layout.adapters("acme"), layout.blobs("acme"), layout.BRANDS, layout.part(blob, ""),
    )  # fmt: skip
    session = _session(size=9000)
    upload = {layout.upload("acme", "a-request"): session}
    store.objects = {**_GOOD, **upload, **{f"{place}{name}": b"{}" for place in places}}
    core = in_memory(store)

    async def look() -> object:
        found: list[object] = [layout.feed_tidings(layout.FEED + name), layout.probe_time(layout.PROBES + name)]
        for each in (_read_adapter(core), _read_brand(core), _read_upload(core), core.catalog.everything()):
            try:
                found.append(await each)
            except LooksmithError as error:
                found.append(error)
        found += [message async for message in core.checker.check("", read_files=False)]
        return [*found, await core.collector.collect(dry_run=False)]

    return run(look())


def _base(data: bytes) -> object:
    found, _ = manifest.from_json(data)
    again, _ = manifest.from_json(manifest.to_json(found, about={}))
    return again.digest


def _table(data: bytes) -> object:
    """And asked for a name in each of the ways that files have."""
    text, path = parts_of(data, 2)
    table, name = table_from_json(text.decode("utf-8", "replace")), path.decode("utf-8", "replace")
    table_to_json(table)
    return table.find("unet", name), table.find_flat("unet", name), table.context_widths


_TABLE = table_to_json(
    type(_STUDIO)("tiny", "", {"unet": dict(list(_STUDIO.components["unet"].items())[:12])}),
).encode()
_MANIFEST = manifest.to_json(
    manifest.Manifest(manifest.Kind.FOLDER, (manifest.BaseFile("unet/a.safetensors", 9, "3" * 64),)), about={}
)
_RECORD_WORDS = (
    *JSON_WORDS, b'"kind"', b'"published"', b'"alias_set"', b'"yanked"', b'"erased"', b'"version"', b'"aliases"',
    b'"0001-01-01T00:00:00Z"', b'"9999-12-31T23:59:59Z"', b'"state"', b'"seq"',
)  # fmt: skip

TARGETS = (
    Target(
        "stored/adapter_record", _Instead(_ADAPTER, _read_adapter), (LooksmithError,), (_GOOD[_ADAPTER],),
        _RECORD_WORDS, longest=8192, share=2,
    ),
    Target("stored/brand_record", _Instead(_BRAND, _read_brand), (LooksmithError,), (_GOOD[_BRAND],), _RECORD_WORDS),
    Target(
        "stored/upload",
        _Instead(layout.upload("acme", "a-request"), _read_upload),
        (LooksmithError,),
        (
            _session(size=9),
        ),
        _RECORD_WORDS,
    ),
    Target(
        "stored/keys", _keys, (LooksmithError,),
        (b"00000000000000000002.json", b"00001-0123456789abcdef", b"1767225600000-0.acme.look.2", b"1767225600-0-a"),
        (b".json", b"/", b"log/", b"a/", b"-", b"9" * 30, "\u0663".encode(), b"."),
    ),
    Target("stored/base_manifest", _base, (ValueError,), (_MANIFEST,), JSON_WORDS),
    Target("stored/module_table", _table, (ValueError, LoraError), (packed(_TABLE, b"conv_in"),), JSON_WORDS, 8192),
)  # fmt: skip
