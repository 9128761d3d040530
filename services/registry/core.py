"""The registry without its surroundings: what stands between a store and the gRPC edge, put together.

Knows neither settings nor servers, so that a store in memory makes a registry in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.registry import layout, records
from services.registry.blobs import PART_BYTES, Blobs
from services.registry.brands import Brands
from services.registry.catalog import Catalog, adapter_of
from services.registry.collector import Collector
from services.registry.commit_log import Surroundings
from services.registry.erasure import Eraser
from services.registry.feed import Feed
from services.registry.fsck import Checker
from services.registry.judging import Judging
from services.registry.object_store import ObjectStore
from services.registry.publisher import Publisher
from services.registry.shelf import Shelf
from services.registry.status import StatusTeller
from services.registry.uploads import Uploads
from services.registry.watch import Watches


@dataclass(frozen=True)
class Core:
    brands: Brands
    catalog: Catalog
    publisher: Publisher
    uploads: Uploads
    watches: Watches
    feed: Feed
    eraser: Eraser
    collector: Collector
    checker: Checker
    status: StatusTeller


def assemble(
    *,
    store: ObjectStore,
    judging: Judging,
    around: Surroundings,
    head_max_age_s: float,
    feed_every_s: float = 0.25,
    heartbeat_s: float = 5.0,
    gc_grace_s: float = 3 * 86400.0,
    upload_expiry_s: float = 86400.0,
    commit_window_s: float = 600.0,
    part_bytes: int = PART_BYTES,
    who: Callable[[], str] = lambda: "",
    store_name: str = "memory",
    breaches: Callable[[], Sequence[str]] = tuple,
) -> Core:
    """A registry on a store.

    Args:
        store: where all its state lies.
        judging: decides which files may be published.
        around: clocks and chance.
        head_max_age_s: seconds for which a replica's memory of a log answers without asking the store.
        feed_every_s: seconds between looks for what other replicas have committed; ``feed`` is the caller's to run.
        heartbeat_s: seconds of silence after which a watcher is told that there is nothing to tell.
        gc_grace_s: seconds from the writing of an object after which no publication can name it any more.
        upload_expiry_s: seconds from the start of an upload after which it can't be resumed.
        commit_window_s: seconds from the last byte of a file after which no record may name it any more.
        part_bytes: of the parts of a large file, other than PART_BYTES in tests only.
        who: names whoever is being answered, for the history.
        store_name: what people call the store.
        breaches: rules that it was seen to break, each with what it did.
    """
    adapters = Shelf(layout.adapter_log, store=store, schema=records.ADAPTER, around=around, max_age_s=head_max_age_s)
    brands = Shelf(layout.brand_log, store=store, schema=records.BRAND, around=around, max_age_s=head_max_age_s)
    blobs = Blobs(store=store, part_bytes=part_bytes)
    catalog = Catalog(adapters=adapters, blobs=blobs, store=store, who=who)
    uploads = Uploads(
        store=store, blobs=blobs, around=around, published_by=catalog.published_by, expiry_s=upload_expiry_s
    )
    feed = Feed(store=store, around=around, every_s=feed_every_s)
    watches = Watches(
        everything=catalog.everything,
        erased=catalog.erased,
        stale_since=lambda: feed.stale_since,
        incarnation=around.new_id(),
        heartbeat_s=heartbeat_s,
    )

    def heard(names: tuple[str, ...], record: records.AdapterRecord, wrote: bool) -> None:  # noqa: FBT001  # as News
        brand, adapter = names
        watches.changed(adapter_of(brand, adapter, record), record.state.erased_digests())
        if wrote:
            feed.announce(brand, adapter, record.seq)

    adapters.listen(heard)
    eraser = Eraser(store=store, adapters=adapters, brands=brands)
    return Core(
        brands=Brands(shelf=brands, store=store),
        catalog=catalog,
        watches=watches,
        feed=feed,
        eraser=eraser,
        collector=Collector(
            store=store, adapters=adapters, brands=brands, eraser=eraser, around=around, grace_s=gc_grace_s
        ),
        checker=Checker(store=store),
        status=StatusTeller(store=store, name=store_name, around=around, breaches=breaches),
        uploads=uploads,
        publisher=Publisher(
            adapters=adapters,
            brands=brands,
            blobs=blobs,
            uploads=uploads,
            judging=judging,
            around=around,
            commit_window_s=commit_window_s,
            who=who,
        ),
    )
