"""The registry without its surroundings: what stands between a store and the gRPC edge, put together.

Knows neither settings nor servers, so that a store in memory makes a registry in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.registry import layout, records
from services.registry.blobs import Blobs
from services.registry.brands import Brands
from services.registry.catalog import Catalog, adapter_of
from services.registry.commit_log import Surroundings
from services.registry.feed import Feed
from services.registry.judging import Judging
from services.registry.object_store import ObjectStore
from services.registry.publisher import Publisher
from services.registry.shelf import Shelf
from services.registry.watch import Watches


@dataclass(frozen=True)
class Core:
    brands: Brands
    catalog: Catalog
    publisher: Publisher
    watches: Watches
    feed: Feed


def assemble(
    *,
    store: ObjectStore,
    judging: Judging,
    around: Surroundings,
    head_max_age_s: float,
    spool_folder: Path | None = None,
    feed_every_s: float = 0.25,
    heartbeat_s: float = 5.0,
    who: Callable[[], str] = lambda: "",
) -> Core:
    """A registry on a store.

    Args:
        store: where all its state lies.
        judging: decides which files may be published.
        around: clocks and chance.
        head_max_age_s: seconds for which a replica's memory of a log answers without asking the store.
        spool_folder: where uploads wait; None: the system's folder for temporary files.
        feed_every_s: seconds between looks for what other replicas have committed; ``feed`` is the caller's to run.
        heartbeat_s: seconds of silence after which a watcher is told that there is nothing to tell.
        who: names whoever is being answered, for the history.
    """
    adapters = Shelf(layout.adapter_log, store=store, schema=records.ADAPTER, around=around, max_age_s=head_max_age_s)
    brands = Shelf(layout.brand_log, store=store, schema=records.BRAND, around=around, max_age_s=head_max_age_s)
    blobs = Blobs(store=store, spool_folder=spool_folder)
    catalog = Catalog(adapters=adapters, blobs=blobs, store=store, who=who)
    feed = Feed(store=store, around=around, every_s=feed_every_s)
    watches = Watches(
        everything=catalog.everything,
        stale_since=lambda: feed.stale_since,
        incarnation=around.new_id(),
        heartbeat_s=heartbeat_s,
    )

    def heard(names: tuple[str, ...], record: records.AdapterRecord, wrote: bool) -> None:  # noqa: FBT001  # as News
        brand, adapter = names
        watches.changed(adapter_of(brand, adapter, record))
        if wrote:
            feed.announce(brand, adapter, record.seq)

    adapters.listen(heard)
    return Core(
        brands=Brands(shelf=brands, store=store),
        catalog=catalog,
        watches=watches,
        feed=feed,
        publisher=Publisher(adapters=adapters, brands=brands, blobs=blobs, judging=judging, around=around, who=who),
    )
