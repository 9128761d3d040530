"""The nouns of the API as frozen dataclasses: brands, adapters, versions, and how one points at them.

Says what is well-formed and refuses the rest by field; knows nothing about gRPC, protobuf or any server.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum

PRODUCTION = "production"
#: Why an image was blocked: by the safety checker of its recipe.
SAFETY_CHECKER = "SAFETY_CHECKER"
MAX_ADAPTERS = 3
MAX_WEIGHT = 2.0
#: Of each of a brand's texts: a hundred records, a list's usual page, must fit in one message.
MAX_TEXT_CHARACTERS = 2000
MAX_TRIGGER_WORDS = 32
MAX_TRIGGER_WORD_CHARACTERS = 128
MAX_CLIP_SKIP = 12
MAX_TRAINED_FROM_CHARACTERS = 256
PREDICTION_TYPES = ("epsilon", "v_prediction")

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Malformed(ValueError):
    """A value that can't be what its field stands for.

    Attributes:
        field: path of the field in the request, such as ``adapters[0].weight``.
        description: what is wrong with it.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field, self.description = field, description


def check_name(field: str, name: str) -> str:
    """A brand's, adapter's or worker's name, as it came.

    Raises:
        Malformed: it does not match ``[a-z0-9][a-z0-9-]{0,62}``.
    """
    if not _NAME.fullmatch(name):
        raise Malformed(field, f"must match [a-z0-9][a-z0-9-]{{0,62}}, not {name[:80]!r}" if name else "is required")
    return name


def check_alias(field: str, alias: str) -> str:
    """As check_name, and not all digits, which would read as a version."""
    check_name(field, alias)
    if alias.isdigit():
        raise Malformed(field, f"must not be all digits like a version: {alias!r}")
    return alias


def check_digest(field: str, digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise Malformed(field, f"must be a SHA-256 in 64 lower-case hex digits, not {digest[:80]!r}")
    return digest


def is_digest(pick: int | str) -> bool:
    return isinstance(pick, str) and bool(_DIGEST.fullmatch(pick))


class Action(StrEnum):
    """What a caller can be allowed."""

    READ = "read"
    """See records and histories, resolve references, download files."""
    PUBLISH = "publish"
    """Add versions, and move aliases that are not protected."""
    PROMOTE = "promote"
    """Move protected aliases, and yank versions."""
    MANAGE = "manage"
    """Change and delete brands' records."""
    GENERATE = "generate"
    """Paint with a brand, and ask where it would be done."""
    OPERATE = "operate"
    """Look after the fleet: see workers and usage, warm, drain, evict, reset; and what scalers ask."""
    SERVE = "serve"
    """Join a router as a worker."""


class Tier(IntEnum):
    """Where an adapter is, fastest first."""

    DEVICE = 1
    HOST = 2
    DISK = 3
    STORE = 4


class VersionState(StrEnum):
    READY = "ready"
    YANKED = "yanked"


@dataclass(frozen=True)
class AdapterRef:
    """One version of one adapter: by alias, by number or by digest, whichever ``pick`` is.

    A ``pick`` is an int (version), a 64-digit hex string (digest) or any other string (alias).
    """

    brand: str
    adapter: str
    pick: int | str = PRODUCTION

    def __post_init__(self) -> None:
        check_name("brand", self.brand)
        check_name("adapter", self.adapter)
        if isinstance(self.pick, int):
            if self.pick < 1:
                raise Malformed("version", "must be at least 1")
        elif not self.is_digest:
            check_alias("alias", self.pick)

    @property
    def is_digest(self) -> bool:
        return is_digest(self.pick)

    def __str__(self) -> str:
        if isinstance(self.pick, int):
            return f"{self.brand}/{self.adapter}@{self.pick}"
        return f"{self.brand}/{self.adapter}{'@sha256' if self.is_digest else ''}:{self.pick}"


@dataclass(frozen=True)
class AdapterUse:
    """One adapter in a picture and its strength; ``pick`` as in AdapterRef."""

    adapter: str
    pick: int | str = PRODUCTION
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_name("adapter", self.adapter)
        if not math.isfinite(self.weight) or abs(self.weight) > MAX_WEIGHT:
            raise Malformed("weight", f"must be from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}, not {self.weight}")

    def ref(self, brand: str) -> AdapterRef:
        return AdapterRef(brand, self.adapter, self.pick)


@dataclass(frozen=True)
class PinnedAdapter:
    """An adapter use with nothing left to resolve."""

    adapter: str
    version: int
    digest: str
    weight: float


@dataclass(frozen=True)
class Alias:
    name: str
    version: int
    update_time: datetime


@dataclass(frozen=True)
class Adapter:
    """A named series of versions; ``seq`` is the newest record of its log.

    ``withdrawn_versions`` were yanked by force: nobody paints with them any more, whatever was accepted before.
    """

    brand: str
    name: str
    latest_version: int
    aliases: tuple[Alias, ...]
    seq: int
    create_time: datetime
    update_time: datetime
    withdrawn_versions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Lineage:
    """What is known of an adapter's training; "", 0 or nothing: not known.

    Attributes:
        trigger_words: what a prompt needs for the adapter to show.
        clip_skip: how many of the text encoder's last layers were left out, as diffusers counts.
        prediction_type: one of PREDICTION_TYPES.
        trained_from: name of the checkpoint.
    """

    trigger_words: tuple[str, ...] = ()
    clip_skip: int = 0
    prediction_type: str = ""
    trained_from: str = ""

    def or_else(self, other: Lineage) -> Lineage:
        """This, with what ``other`` says where this says nothing."""
        return Lineage(
            trigger_words=self.trigger_words or other.trigger_words,
            clip_skip=self.clip_skip or other.clip_skip,
            prediction_type=self.prediction_type or other.prediction_type,
            trained_from=self.trained_from or other.trained_from,
        )


@dataclass(frozen=True)
class AdapterManifest:
    """What validation found in a file: all a worker must know before it fetches the bytes."""

    family: str
    base_digest: str
    dialect: str
    modules: int
    parameters: int
    ranks: tuple[int, ...]
    components: tuple[str, ...]
    convolutions: bool
    warnings: tuple[str, ...] = ()
    lineage: Lineage = Lineage()


@dataclass(frozen=True)
class AdapterVersion:
    """Immutable: the number and the digest never part."""

    brand: str
    adapter: str
    version: int
    digest: str
    size_bytes: int
    manifest: AdapterManifest
    publish_time: datetime
    state: VersionState = VersionState.READY
    publisher: str = ""
    note: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Resolved:
    """What a reference meant at one point of an adapter's log. ``stale_since``: the store was out of reach then."""

    version: AdapterVersion
    seq: int
    stale_since: datetime | None = None


@dataclass(frozen=True)
class BrandLimits:
    """Bounds of one brand; 0: the deployment's own."""

    max_queued_jobs: int = 0
    max_images_per_request: int = 0
    max_gpu_seconds_per_minute: float = 0.0
    max_stored_bytes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.max_gpu_seconds_per_minute < math.inf:
            told = f"must be at least 0 and finite, not {self.max_gpu_seconds_per_minute}"
            raise Malformed("limits.max_gpu_seconds_per_minute", told)


@dataclass(frozen=True)
class Brand:
    """A tenant's record: how its pictures are made unless a request says otherwise."""

    name: str
    display_name: str = ""
    default_adapters: tuple[AdapterUse, ...] = ()
    prompt_template: str = ""
    negative_prompt: str = ""
    recipe: str = ""
    fair_share_weight: float = 1.0
    limits: BrandLimits = BrandLimits()
    version: int = 0
    update_time: datetime | None = None
    default_width: int = 0
    default_height: int = 0

    def __post_init__(self) -> None:
        check_name("name", self.name)
        if self.recipe:
            check_name("recipe", self.recipe)
        for field_, text in (
            ("display_name", self.display_name),
            ("prompt_template", self.prompt_template),
            ("negative_prompt", self.negative_prompt),
        ):
            if len(text) > MAX_TEXT_CHARACTERS:
                raise Malformed(field_, f"has {len(text)} characters; at most {MAX_TEXT_CHARACTERS} are kept")
        if len(self.default_adapters) > MAX_ADAPTERS:
            raise Malformed("default_adapters", f"may name {MAX_ADAPTERS} adapters, not {len(self.default_adapters)}")
        if self.prompt_template and self.prompt_template.count("{prompt}") != 1:
            raise Malformed("prompt_template", "must hold {prompt} exactly once")
        if not 0 < self.fair_share_weight <= 1000:
            raise Malformed("fair_share_weight", f"must be over 0 and at most 1000, not {self.fair_share_weight}")
        if bool(self.default_width) is not bool(self.default_height):
            lacking = "default_height" if self.default_width else "default_width"
            raise Malformed(lacking, "is 0; a default size has both default_width and default_height, or neither")

    @property
    def default_size(self) -> tuple[int, int] | None:
        """(width, height) of a picture whose request names neither; None: the recipe's first."""
        return (self.default_width, self.default_height) if self.default_width else None

    def final_prompt(self, prompt: str) -> str:
        return self.prompt_template.replace("{prompt}", prompt) if self.prompt_template else prompt
