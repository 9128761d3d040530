"""What the records of the two kinds of log hold. Knows their JSON by their types; decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from pydantic import TypeAdapter

from looksmith.nouns import Brand
from services.registry import adapter_state
from services.registry.adapter_state import AdapterState, Event
from services.registry.commit_log import CommitLog, Record, Schema
from services.registry.shelf import Head, Shelf


@dataclass(frozen=True)
class BrandPut:
    """A brand's record was created or replaced."""

    brand: Brand


def apply_put(_state: Brand | None, event: BrandPut, seq: int, time: datetime) -> Brand:
    """The record as it stands after a put: its version is the number of the log's record."""
    return replace(event.brand, version=seq, update_time=time)


AdapterLog = CommitLog[Event, AdapterState]
AdapterHead = Head[Event, AdapterState]
AdapterRecord = Record[Event, AdapterState]
AdapterShelf = Shelf[Event, AdapterState]
BrandShelf = Shelf[BrandPut, Brand]

ADAPTER = Schema(TypeAdapter(Record[Event, AdapterState]), adapter_state.apply)
BRAND = Schema(TypeAdapter(Record[BrandPut, Brand]), apply_put)
