"""Where everything lies in the store. Knows keys, and nothing about what is behind them.

r1/b/<brand>/brand/<20 digits>.json            the brand's record: a commit log
r1/b/<brand>/a/<adapter>/log/<20 digits>.json  the adapter's versions and aliases: a commit log
r1/b/<brand>/blobs/<sha256>                    files, one a digest, shared by the adapters of one brand only
r1/feed/<unix milliseconds>-<id>.<brand>.<adapter>.<seq>  a record was committed: a hint to other replicas, gone later
r1/probe/<unix seconds>-<id>-...               what a replica tries the store with at its start, gone seconds later

All that a brand owns has one prefix, so that it can be measured, granted and erased by itself. Brands share no bytes:
whether a file exists must not show to another tenant.
"""

from __future__ import annotations

from datetime import UTC, datetime

BRANDS = "r1/b/"
FEED = "r1/feed/"
PROBES = "r1/probe/"


def brand_log(brand: str) -> str:
    return f"{BRANDS}{brand}/brand/"


def adapters(brand: str) -> str:
    return f"{BRANDS}{brand}/a/"


def adapter_log(brand: str, adapter: str) -> str:
    return f"{adapters(brand)}{adapter}/log/"


def blob(brand: str, digest: str) -> str:
    return f"{BRANDS}{brand}/blobs/{digest}"


def feed_entry(time: datetime, entry_id: str, brand: str, adapter: str, seq: int) -> str:
    """Sorts by time."""
    return f"{feed_after(time)}-{entry_id}.{brand}.{adapter}.{seq}"


def feed_after(time: datetime) -> str:
    """What entries of this time and later ones sort after."""
    return f"{FEED}{int(time.timestamp() * 1000):013d}"


def feed_tidings(key: str) -> tuple[str, str, int] | None:
    """Brand, adapter and number of the record that an entry tells of; None: it is none."""
    match key.removeprefix(FEED).split("."):
        case [_, brand, adapter, seq] if seq.isdecimal():
            return brand, adapter, int(seq)
    return None


def probe(began: datetime, probe_id: str) -> str:
    """What all keys of one probe begin with: its time, so that what a killed one left behind shows its age.

    No folder of its own, which some stores would keep when it is empty.
    """
    return f"{PROBES}{int(began.timestamp())}-{probe_id}-"


def probe_time(key: str) -> datetime | None:
    """When the probe that wrote this key began; None: it is not a probe's."""
    seconds, dash, _ = key.removeprefix(PROBES).partition("-")
    return datetime.fromtimestamp(int(seconds), UTC) if dash and seconds.isdecimal() else None


def slot(log: str, seq: int) -> str:
    """Key of a log's record; zero-padded, so that keys sort as numbers do."""
    return f"{log}{seq:020d}.json"


def slot_seq(key: str) -> int:
    return int(key.rpartition("/")[2].removesuffix(".json"))
