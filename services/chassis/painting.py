"""A painting request, from what the caller sent to what is painted, as routers and workers both settle it.

Pure: takes the brand, the resolved adapters and the recipe as arguments; knows neither registry, fleet nor engine.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from looksmith.errors import FailedPrecondition, InvalidField
from looksmith.nouns import AdapterUse, Brand, PinnedAdapter, Resolved, VersionState
from services.chassis.final_prompt import final_prompt

MAX_IMAGES = 16
MAX_PROMPT_CHARACTERS = 8000
#: A prompt in a brand's template, behind the trigger words of three adapters.
MAX_FINAL_PROMPT_CHARACTERS = 24_000
MAX_REQUEST_ID_CHARACTERS = 128
#: As long as a DNS name may be.
MAX_ROUTER_CHARACTERS = 253


class FamilyMismatch(FailedPrecondition):
    reason = "FAMILY_MISMATCH"


class BaseMismatch(FailedPrecondition):
    reason = "BASE_MISMATCH"


class AdapterYanked(FailedPrecondition):
    reason = "ADAPTER_YANKED"


class ImageFormat(StrEnum):
    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


@dataclass(frozen=True)
class Pinned:
    """What a router resolved once for all attempts; a worker that gets it resolves nothing itself.

    ``portion`` numbers the portions of a request whose images are shared out; 0: the whole request.
    """

    adapters: tuple[PinnedAdapter, ...]
    recipe_digest: str
    final_prompt: str
    attempt: int
    router: str
    portion: int = 0

    def __post_init__(self) -> None:
        _check_prompt("pinned.final_prompt", self.final_prompt, MAX_FINAL_PROMPT_CHARACTERS)
        if len(self.router) > MAX_ROUTER_CHARACTERS:
            raise InvalidField("pinned.router", f"has over {MAX_ROUTER_CHARACTERS} characters")


@dataclass(frozen=True)
class PaintRequest:
    """What the caller asked for, well-formed field by field. None, 0 and "" mean: not said."""

    brand: str
    prompt: str
    request_id: str
    negative_prompt: str | None = None
    adapters: tuple[AdapterUse, ...] = ()
    no_adapters: bool = False
    recipe: str = ""
    count: int = 1
    seed: int | None = None
    width: int = 0
    height: int = 0
    steps: int = 0
    guidance: float | None = None
    image_format: ImageFormat = ImageFormat.PNG
    report_steps: bool = False
    preview_every: int = 0
    omit_image_bytes: bool = False
    raw_prompt: bool = False
    allow_truncation: bool = False
    images_done: frozenset[int] = frozenset()
    reproducible: bool = False
    pinned: Pinned | None = None

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise InvalidField("prompt", "is required", reason="PROMPT_EMPTY")
        _check_prompt("prompt", self.prompt, MAX_PROMPT_CHARACTERS)
        _check_prompt("negative_prompt", self.negative_prompt or "", MAX_PROMPT_CHARACTERS)
        if len(self.request_id) > MAX_REQUEST_ID_CHARACTERS or not self.request_id.isprintable():
            raise InvalidField("request_id", f"must be at most {MAX_REQUEST_ID_CHARACTERS} printable characters")
        if not 1 <= self.count <= MAX_IMAGES:
            raise InvalidField("count", f"must be 1 to {MAX_IMAGES}, not {self.count}", reason="COUNT_UNSUPPORTED")
        if self.guidance is not None and not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise InvalidField("guidance", f"must be at least 0, not {self.guidance}", reason="GUIDANCE_UNSUPPORTED")
        if self.no_adapters and self.adapters:
            raise InvalidField("no_adapters", "contradicts adapters")
        if beyond := sorted(i for i in self.images_done if i >= self.count):
            raise InvalidField("images_done", f"names image {beyond[0]}, but count is {self.count}")

    def uses(self, brand: Brand) -> tuple[AdapterUse, ...]:
        """The adapters that the request means: its own, the brand's default ones, or none."""
        if self.no_adapters:
            return ()
        return self.adapters or brand.default_adapters


def _check_prompt(field: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise InvalidField(field, f"has over {limit} characters", reason="PROMPT_TOO_LONG")


@dataclass(frozen=True)
class RecipeFacts:
    """What a router must know of a recipe to accept a request; the worker that serves it declares them."""

    name: str
    digest: str
    family: str
    base_digest: str
    sizes: tuple[tuple[int, int], ...]  # (width, height); the first is the default
    steps: tuple[int, ...]
    default_steps: int
    default_guidance: float = 0.0
    max_guidance: float = 0.0  # 0: takes none
    strict_base: bool = False


@dataclass(frozen=True)
class Settled:
    """A request with nothing left open: painting it again gives the same pictures."""

    request: PaintRequest
    recipe: RecipeFacts
    adapters: tuple[PinnedAdapter, ...]
    seed: int
    width: int
    height: int
    steps: int
    guidance: float
    final_prompt: str
    negative_prompt: str
    warnings: tuple[str, ...] = ()

    @property
    def images_to_paint(self) -> tuple[int, ...]:
        return tuple(i for i in range(self.request.count) if i not in self.request.images_done)

    def image_seed(self, image: int) -> int:
        return int((self.seed + image) % 2**64)


def derived_seed(request_id: str) -> int:
    """The seed of a request that names none: a function of its id, so that a retry paints the same pictures."""
    return int.from_bytes(hashlib.sha256(b"seed\0" + request_id.encode()).digest()[:8])


def content_digest(request: PaintRequest, settled: Settled) -> str:
    """Identity of what a request id stands for.

    Leaves out what may change between tries: images_done, progress, previews and omit_image_bytes. A seed, version,
    size or recipe that is spelled out counts the same as the one the id was pinned to.
    """
    may_change = {"images_done", "report_steps", "preview_every", "omit_image_bytes", "pinned"}
    pinned = {"adapters", "no_adapters", "recipe", "seed", "width", "height"}
    kept = {name: value for name, value in asdict(request).items() if name not in may_change | pinned}
    kept |= {"seed": settled.seed, "recipe": settled.recipe.name, "size": [settled.width, settled.height]}
    kept |= {"pinned_adapters": [asdict(adapter) for adapter in settled.adapters]}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def settle(
    request: PaintRequest,
    *,
    brand: Brand,
    resolved: Mapping[AdapterUse, Resolved],
    recipe: RecipeFacts,
) -> Settled:
    """Fills in what the request leaves open and refuses what the recipe can't paint.

    Args:
        request: what was asked.
        brand: its brand's record.
        resolved: every one of ``request.uses(brand)``, resolved.
        recipe: the recipe that the request or the brand names, or the fleet's default.

    Raises:
        InvalidArgument: size, steps, guidance or count that recipe or brand don't allow; names the field.
        FailedPrecondition: an adapter is withdrawn, or was trained for another base.
    """
    limit = brand.limits.max_images_per_request
    if limit and request.count > limit:
        raise InvalidField("count", f"brand {brand.name} may ask for {limit} images", reason="COUNT_UNSUPPORTED")
    width, height = _size(request, brand, recipe)
    steps = request.steps or recipe.default_steps
    if steps not in recipe.steps:
        allowed = ", ".join(map(str, recipe.steps))
        raise InvalidField("steps", f"recipe {recipe.name} allows {allowed}, not {steps}", reason="STEPS_UNSUPPORTED")
    guidance = recipe.default_guidance if request.guidance is None else request.guidance
    if guidance > recipe.max_guidance:
        allows = f"at most {recipe.max_guidance:g}" if recipe.max_guidance else "none"
        message = f"recipe {recipe.name} takes {allows}, not {guidance:g}"
        raise InvalidField("guidance", message, reason="GUIDANCE_UNSUPPORTED")
    uses = request.uses(brand)
    negative = brand.negative_prompt if request.negative_prompt is None else request.negative_prompt
    trigger_words = [word for use in uses for word in resolved[use].version.manifest.lineage.trigger_words]
    prompt = final_prompt(request.prompt, brand=brand, trigger_words=trigger_words)
    return Settled(
        request=request,
        recipe=recipe,
        adapters=tuple(
            PinnedAdapter(use.adapter, resolved[use].version.version, resolved[use].version.digest, use.weight)
            for use in uses
        ),
        seed=derived_seed(request.request_id) if request.seed is None else request.seed,
        width=width,
        height=height,
        steps=steps,
        guidance=guidance,
        final_prompt=request.prompt if request.raw_prompt else prompt,
        negative_prompt=negative if guidance > 1 else "",
        warnings=tuple(w for use in uses for w in _check_base(resolved[use], recipe)),
    )


def _size(request: PaintRequest, brand: Brand, recipe: RecipeFacts) -> tuple[int, int]:
    """The request's, where it names any of it; else the brand's; else the recipe's."""
    default_width, default_height = recipe.sizes[0]
    size = (request.width or default_width, request.height or default_height)
    whose = ""
    if brand.default_size and not (request.width or request.height):
        size, whose = brand.default_size, "brand.default_"
    if size not in recipe.sizes:
        field = "width" if size[0] not in {w for w, _ in recipe.sizes} else "height"
        sizes = ", ".join(f"{w}x{h}" for w, h in recipe.sizes)
        message = f"recipe {recipe.name} paints {sizes}, not {size[0]}x{size[1]}"
        raise InvalidField(whose + field, message, reason="SIZE_UNSUPPORTED")
    return size


def _check_base(resolved: Resolved, recipe: RecipeFacts) -> list[str]:
    """Refuses an adapter that recipe can't run; warns of one that was trained on a sister of its base."""
    version = resolved.version
    name = f"{version.brand}/{version.adapter}@{version.version}"
    if version.state is VersionState.YANKED:
        raise AdapterYanked(f"{name} was withdrawn", metadata={"adapter": name})
    manifest = version.manifest
    if manifest.family != recipe.family:
        message = f"{name} was trained for {manifest.family}, recipe {recipe.name} paints with {recipe.family}"
        raise FamilyMismatch(message, metadata={"adapter": name, "family": manifest.family})
    if manifest.base_digest and manifest.base_digest != recipe.base_digest:
        message = f"{name} was trained on base {manifest.base_digest[:12]}, not on {recipe.base_digest[:12]}"
        if recipe.strict_base:
            message += f", the only base whose adapters recipe {recipe.name} takes"
            raise BaseMismatch(message, metadata={"adapter": name, "base_digest": manifest.base_digest})
        return [message]
    return []
