"""The registry without its surroundings: what stands between a store and the gRPC edge, put together.

Knows neither settings nor servers, so that a store in memory makes a registry in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.registry import layout, records
from services.registry.blobs import Blobs
from services.registry.brands import Brands
from services.registry.catalog import Catalog
from services.registry.commit_log import Surroundings
from services.registry.judging import Judging
from services.registry.object_store import ObjectStore
from services.registry.publisher import Publisher
from services.registry.shelf import Shelf


@dataclass(frozen=True)
class Core:
    brands: Brands
    catalog: Catalog
    publisher: Publisher


def assemble(
    *,
    store: ObjectStore,
    judging: Judging,
    around: Surroundings,
    head_max_age_s: float,
    spool_folder: Path | None = None,
) -> Core:
    """A registry on a store.

    Args:
        store: where all its state lies.
        judging: decides which files may be published.
        around: clocks and chance.
        head_max_age_s: seconds for which a replica's memory of a log answers without asking the store.
        spool_folder: where uploads wait; None: the system's folder for temporary files.
    """
    adapters = Shelf(layout.adapter_log, store=store, schema=records.ADAPTER, around=around, max_age_s=head_max_age_s)
    brands = Shelf(layout.brand_log, store=store, schema=records.BRAND, around=around, max_age_s=head_max_age_s)
    blobs = Blobs(store=store, spool_folder=spool_folder)
    return Core(
        brands=Brands(shelf=brands, store=store),
        catalog=Catalog(adapters=adapters, blobs=blobs, store=store),
        publisher=Publisher(adapters=adapters, brands=brands, blobs=blobs, judging=judging, around=around),
    )
