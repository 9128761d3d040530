"""What is asked of the registry and what it answers, where looksmith.nouns has no word for it.

Says what is well-formed; knows nothing about protobuf, stores or files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from looksmith.nouns import (
    MAX_CLIP_SKIP,
    MAX_TRAINED_FROM_CHARACTERS,
    MAX_TRIGGER_WORD_CHARACTERS,
    MAX_TRIGGER_WORDS,
    PREDICTION_TYPES,
    AdapterVersion,
    Alias,
    Lineage,
    Malformed,
    check_alias,
    check_digest,
    check_name,
)

MAX_REQUEST_ID_CHARACTERS = 128
MAX_TEXT_CHARACTERS = 2000
MAX_PUBLISHER_CHARACTERS = 256
MAX_LABELS = 32
MAX_LABEL_CHARACTERS = 128
MAX_ALIASES = 16

_FAMILY = re.compile(r"[a-z0-9][a-z0-9_]{0,31}")

T = TypeVar("T")


def check_text(field: str, text: str, limit: int = MAX_TEXT_CHARACTERS) -> str:
    if len(text) > limit:
        raise Malformed(field, f"has {len(text)} characters; at most {limit} are kept")
    return text


def check_reason(reason: str) -> str:
    """Why something is done that nobody should do without saying so."""
    if not reason.strip():
        raise Malformed("reason", "is required")
    return check_text("reason", reason)


def check_request_id(request_id: str) -> str:
    """May be empty."""
    if not check_text("request_id", request_id, MAX_REQUEST_ID_CHARACTERS).isprintable():
        raise Malformed("request_id", "must be printable")
    return request_id


def check_lineage(lineage: Lineage) -> Lineage:
    """What a publisher says of an adapter's training; bounds are those that a file's own word has."""
    if len(lineage.trigger_words) > MAX_TRIGGER_WORDS:
        raise Malformed("lineage.trigger_words", f"may hold {MAX_TRIGGER_WORDS}, not {len(lineage.trigger_words)}")
    for i, word in enumerate(lineage.trigger_words):
        _check_line(f"lineage.trigger_words[{i}]", word, MAX_TRIGGER_WORD_CHARACTERS)
        if not word.strip():
            raise Malformed(f"lineage.trigger_words[{i}]", "is empty")
    if not 0 <= lineage.clip_skip <= MAX_CLIP_SKIP:
        raise Malformed("lineage.clip_skip", f"must be from 0 to {MAX_CLIP_SKIP}, not {lineage.clip_skip}")
    if lineage.prediction_type not in ("", *PREDICTION_TYPES):
        known = " or ".join(PREDICTION_TYPES)
        raise Malformed("lineage.prediction_type", f"must be {known}, not {lineage.prediction_type[:80]!r}")
    _check_line("lineage.trained_from", lineage.trained_from, MAX_TRAINED_FROM_CHARACTERS)
    return lineage


def _check_line(field: str, text: str, limit: int) -> None:
    if not check_text(field, text, limit).isprintable():
        raise Malformed(field, "must be printable")


@dataclass(frozen=True)
class PublishHeader:
    """What a publisher says of a file before sending it."""

    brand: str
    adapter: str
    family: str
    digest: str
    size_bytes: int
    base_digest: str = ""
    request_id: str = ""
    aliases: tuple[str, ...] = ()
    publisher: str = ""
    note: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    lineage: Lineage = field(default_factory=Lineage)
    offset: int = 0

    def __post_init__(self) -> None:
        check_name("brand", self.brand)
        check_name("adapter", self.adapter)
        if not _FAMILY.fullmatch(self.family):
            raise Malformed("family", f"must match [a-z0-9][a-z0-9_]{{0,31}}, not {self.family[:80]!r}")
        check_digest("digest", self.digest)
        if self.base_digest:
            check_digest("base_digest", self.base_digest)
        check_request_id(self.request_id)
        if self.offset and not self.request_id:
            raise Malformed("offset", "needs the request_id of the upload that it goes on with")
        if len(self.aliases) > MAX_ALIASES:
            raise Malformed("aliases", f"may name {MAX_ALIASES} aliases, not {len(self.aliases)}")
        for i, alias in enumerate(self.aliases):
            check_alias(f"aliases[{i}]", alias)
        check_text("publisher", self.publisher, MAX_PUBLISHER_CHARACTERS)
        check_text("note", self.note)
        if len(self.labels) > MAX_LABELS:
            raise Malformed("labels", f"may hold {MAX_LABELS} labels, not {len(self.labels)}")
        for key, value in self.labels.items():
            check_text(f"labels[{key[:40]!r}]", max(key, value, key=len), MAX_LABEL_CHARACTERS)
        check_lineage(self.lineage)


@dataclass(frozen=True)
class Published:
    """Where a file ended up. ``already_existed``: the adapter held it before, and no version was added."""

    version: AdapterVersion
    already_existed: bool
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class UploadState:
    """How much of a file is held, from its start. ``expire_time``: None: all of it, and it is published."""

    received_bytes: int
    expire_time: datetime | None = None


@dataclass(frozen=True)
class AliasMove:
    """An alias as it stands, and what it named before; 0: it is new."""

    alias: Alias
    previous_version: int
    seq: int


@dataclass(frozen=True)
class Yanked:
    """A version that was yanked, and the record of the log that says so."""

    version: AdapterVersion
    seq: int


class EventKind(StrEnum):
    PUBLISHED = "published"
    ALIAS_SET = "alias_set"
    YANKED = "yanked"
    ERASED = "erased"


@dataclass(frozen=True)
class AdapterEvent:
    """One record of an adapter's log, with the aliases that it left behind."""

    seq: int
    time: datetime
    kind: EventKind
    version: int
    aliases: tuple[Alias, ...]
    alias: str = ""
    previous_version: int = 0
    actor: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some of a list; ``next_token`` asks for what follows, and is empty on the last page."""

    items: tuple[T, ...]
    next_token: str = ""
