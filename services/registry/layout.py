"""Where everything lies in the store. Knows keys, and nothing about what is behind them.

r1/b/<brand>/brand/<20 digits>.json            the brand's record: a commit log
r1/b/<brand>/a/<adapter>/log/<20 digits>.json  the adapter's versions and aliases: a commit log
r1/b/<brand>/blobs/<sha256>                    files, one a digest, shared by the adapters of one brand only

All that a brand owns has one prefix, so that it can be measured, granted and erased by itself. Brands share no bytes:
whether a file exists must not show to another tenant.
"""

from __future__ import annotations

BRANDS = "r1/b/"


def brand_log(brand: str) -> str:
    return f"{BRANDS}{brand}/brand/"


def adapters(brand: str) -> str:
    return f"{BRANDS}{brand}/a/"


def adapter_log(brand: str, adapter: str) -> str:
    return f"{adapters(brand)}{adapter}/log/"


def blob(brand: str, digest: str) -> str:
    return f"{BRANDS}{brand}/blobs/{digest}"


def slot(log: str, seq: int) -> str:
    """Key of a log's record; zero-padded, so that keys sort as numbers do."""
    return f"{log}{seq:020d}.json"


def slot_seq(key: str) -> int:
    return int(key.rpartition("/")[2].removesuffix(".json"))
