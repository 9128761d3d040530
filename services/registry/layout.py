"""Where everything lies in the store. Knows keys, and nothing about what is behind them.

r1/b/<brand>/brand/<20 digits>.json            the brand's record: a commit log
r1/b/<brand>/a/<adapter>/log/<20 digits>.json  the adapter's versions and aliases: a commit log
r1/b/<brand>/blobs/<sha256>.<id>               files, shared by the adapters of one brand only
r1/b/<brand>/blobs/<sha256>.<id>/<5 digits>-<16 hex>  parts of a large one, with the beginning of their own sha256
r1/b/<brand>/up/<sha256 of the request id>     an upload that can be resumed, gone when it is done
r1/feed/<unix milliseconds>-<id>.<brand>.<adapter>.<seq>  a record was committed: a hint to other replicas, gone later
r1/probe/<unix seconds>-<id>-...               what a replica tries the store with at its start, gone seconds later
r1/clock/<id>                                  by which a collector reads the store's clock, gone when it has looked

All that a brand owns has one prefix, so that it can be measured, granted and erased by itself. Brands share no bytes:
whether a file exists must not show to another tenant. The id in a file's key is that of its upload: no two publications
write the same key.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

ROOT = "r1/"
BRANDS = "r1/b/"
FEED = "r1/feed/"
PROBES = "r1/probe/"
CLOCK = "r1/clock/"
#: All that there is.
FOLDERS = (BRANDS, FEED, PROBES, CLOCK)


def brand_log(brand: str) -> str:
    return f"{BRANDS}{brand}/brand/"


def everything_of(brand: str) -> str:
    return f"{BRANDS}{brand}/"


def is_record(brand: str, key: str) -> bool:
    """Whether a key of the brand is that of a record of one of its logs, and not of a file."""
    return key.startswith((brand_log(brand), adapters(brand)))


def adapters(brand: str) -> str:
    return f"{BRANDS}{brand}/a/"


def adapter_log(brand: str, adapter: str) -> str:
    return f"{adapters(brand)}{adapter}/log/"


def blobs(brand: str) -> str:
    return f"{BRANDS}{brand}/blobs/"


def blob(brand: str, digest: str, upload_id: str) -> str:
    return f"{blobs(brand)}{digest}.{upload_id}"


def part(blob: str, name: str) -> str:
    return f"{blob}/{name}"


def part_name(index: int, digest: str) -> str:
    """Of a part's place and its own sha256, so that streams of one upload don't overwrite each other's bytes."""
    return f"{index:05d}-{digest[:16]}"


def part_index(name: str) -> int:
    return int(name.partition("-")[0])


def is_part_name(name: str) -> bool:
    """Whether it is one, and not that of a strange object beside parts."""
    index, dash, digest = name.partition("-")
    return bool(dash) and index.isascii() and index.isdecimal() and 5 <= len(index) <= 10 and len(digest) == 16


def upload(brand: str, request_id: str) -> str:
    return f"{BRANDS}{brand}/up/{hashlib.sha256(request_id.encode()).hexdigest()}"


def feed_entry(time: datetime, entry_id: str, brand: str, adapter: str, seq: int) -> str:
    """Sorts by time."""
    return f"{feed_after(time)}-{entry_id}.{brand}.{adapter}.{seq}"


def feed_after(time: datetime) -> str:
    """What entries of this time and later ones sort after."""
    return f"{FEED}{int(time.timestamp() * 1000):013d}"


def feed_tidings(key: str) -> tuple[str, str, int] | None:
    """Brand, adapter and number of the record that an entry tells of; None: it is none."""
    match key.removeprefix(FEED).split("."):
        case [_, brand, adapter, seq] if seq.isdecimal() and len(seq) <= 20:
            return brand, adapter, int(seq)
    return None


def clock_reading(reading_id: str) -> str:
    return f"{CLOCK}{reading_id}"


def probe(began: datetime, probe_id: str) -> str:
    """What all keys of one probe begin with: its time, so that what a killed one left behind shows its age.

    No folder of its own, which some stores would keep when it is empty.
    """
    return f"{PROBES}{int(began.timestamp())}-{probe_id}-"


def probe_time(key: str) -> datetime | None:
    """When the probe that wrote this key began; None: it is not a probe's."""
    seconds, dash, _ = key.removeprefix(PROBES).partition("-")
    is_time = dash and seconds.isdecimal() and len(seconds) <= 11  # of a year in four digits
    return datetime.fromtimestamp(int(seconds), UTC) if is_time else None


def slot(log: str, seq: int) -> str:
    """Key of a log's record; zero-padded, so that keys sort as numbers do."""
    return f"{log}{seq:020d}.json"


def slot_seq(key: str) -> int:
    return int(key.rpartition("/")[2].removesuffix(".json"))


def slot_number(key: str) -> int | None:
    """As slot_seq; None: it is no record's key."""
    name = key.rpartition("/")[2].removesuffix(".json")
    return int(name) if len(name) == 20 and name.isdecimal() else None
