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


@dataclass(frozen=True)
class BrandErased:
    """A brand and all it owned were erased. ``name`` alone tells it from a put."""

    name: str


BrandEvent = BrandPut | BrandErased
#: None: the brand is erased.
BrandState = Brand | None


def apply_to_brand(_state: BrandState, event: BrandEvent, seq: int, time: datetime) -> BrandState:
    """The record as it stands after an event: its version is the number of the log's record."""
    return replace(event.brand, version=seq, update_time=time) if isinstance(event, BrandPut) else None


def _brand_without_text(event: BrandEvent) -> BrandEvent:
    return BrandErased(event.brand.name) if isinstance(event, BrandPut) else event


AdapterLog = CommitLog[Event, AdapterState]
AdapterHead = Head[Event, AdapterState]
AdapterRecord = Record[Event, AdapterState]
AdapterShelf = Shelf[Event, AdapterState]
BrandRecord = Record[BrandEvent, BrandState]
BrandShelf = Shelf[BrandEvent, BrandState]

ADAPTER = Schema(
    TypeAdapter(Record[Event, AdapterState]),
    adapter_state.apply,
    without_text=lambda event, state: (adapter_state.without_text(event), adapter_state.state_without_text(state)),
)
BRAND = Schema(
    TypeAdapter(Record[BrandEvent, BrandState]),
    apply_to_brand,
    without_text=lambda event, _state: (_brand_without_text(event), None),
)
