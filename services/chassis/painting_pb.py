"""Painting requests from protobuf and back, for the two services that answer Generate."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from looksmith import convert
from looksmith.errors import InvalidField
from looksmith.nouns import AdapterUse, Malformed, Tier, check_name
from looksmith.v1 import adapter_pb2, fleet_pb2
from looksmith.v1 import generation_pb2 as pb
from services.chassis.painting import ImageFormat, PaintRequest, Pinned, RecipeFacts, Settled

_FORMATS = {
    pb.IMAGE_FORMAT_UNSPECIFIED: ImageFormat.PNG,
    pb.IMAGE_FORMAT_PNG: ImageFormat.PNG,
    pb.IMAGE_FORMAT_JPEG: ImageFormat.JPEG,
    pb.IMAGE_FORMAT_WEBP: ImageFormat.WEBP,
}
IMAGE_FORMAT_TO_PB = {
    ImageFormat.PNG: pb.IMAGE_FORMAT_PNG,
    ImageFormat.JPEG: pb.IMAGE_FORMAT_JPEG,
    ImageFormat.WEBP: pb.IMAGE_FORMAT_WEBP,
}


_TIERS = {int(tier): tier for tier in Tier}
#: Seconds that protobuf lets a duration have: 10 000 years.
_LONGEST_S = 315_576_000_000


def request_from_pb(message: pb.GenerateRequest, *, new_request_id: str) -> PaintRequest:
    """The request, checked field by field; ``new_request_id`` names one that came without.

    Raises:
        InvalidArgument: a field is malformed; names it.
    """
    if message.image_format not in _FORMATS:
        raise InvalidField("image_format", f"must be PNG, JPEG or WEBP, not {message.image_format}")
    try:
        check_name("brand", message.brand)
        if message.recipe:
            check_name("recipe", message.recipe)
        return PaintRequest(
            brand=message.brand,
            prompt=message.prompt,
            request_id=message.request_id or new_request_id,
            negative_prompt=message.negative_prompt if message.HasField("negative_prompt") else None,
            adapters=convert.uses_from_pb("adapters", list(message.adapters)),
            no_adapters=message.no_adapters,
            recipe=message.recipe,
            count=message.count or 1,
            seed=message.seed if message.HasField("seed") else None,
            width=message.width,
            height=message.height,
            steps=message.steps,
            guidance=message.guidance if message.HasField("guidance") else None,
            image_format=_FORMATS[message.image_format],
            report_steps=message.report_steps,
            preview_every=message.preview_every,
            omit_image_bytes=message.omit_image_bytes,
            raw_prompt=message.raw_prompt,
            allow_truncation=message.allow_truncation,
            images_done=frozenset(message.images_done),
            reproducible=message.reproducible,
            pinned=_pinned_from_pb(message.pinned) if message.HasField("pinned") else None,
        )
    except Malformed as error:
        raise InvalidField(error.field, error.description) from None


def _pinned_from_pb(message: pb.Pinned) -> Pinned:
    """Checked like everything else: a worker's port is open to more than routers, and digests become file names."""
    uses = [adapter_pb2.AdapterUse(adapter=a.adapter, digest=a.digest, weight=a.weight) for a in message.adapters]
    convert.uses_from_pb("pinned.adapters", uses)
    return Pinned(
        adapters=tuple(map(convert.pinned_from_pb, message.adapters)),
        recipe_digest=message.recipe_digest,
        final_prompt=message.final_prompt,
        attempt=message.attempt,
        router=message.router,
        portion=message.portion,
    )


def settled_to_pb(settled: Settled, pinned: Pinned) -> pb.GenerateRequest:
    """The request for a worker: all that was settled is spelled out, so that every attempt paints the same."""
    request = settled.request
    return pb.GenerateRequest(
        brand=request.brand,
        prompt=request.prompt,
        negative_prompt=settled.negative_prompt,
        adapters=[convert.use_to_pb(AdapterUse(a.adapter, a.digest, a.weight)) for a in settled.adapters],
        no_adapters=not settled.adapters,
        recipe=settled.recipe.name,
        count=request.count,
        seed=settled.seed,
        width=settled.width,
        height=settled.height,
        steps=settled.steps,
        guidance=settled.guidance,
        image_format=IMAGE_FORMAT_TO_PB[request.image_format],
        report_steps=request.report_steps,
        preview_every=request.preview_every,
        omit_image_bytes=request.omit_image_bytes,
        raw_prompt=request.raw_prompt,
        allow_truncation=request.allow_truncation,
        request_id=request.request_id,
        images_done=sorted(request.images_done),
        reproducible=request.reproducible,
        pinned=_pinned_to_pb(pinned),
    )


def _pinned_to_pb(pinned: Pinned) -> pb.Pinned:
    return pb.Pinned(
        adapters=map(convert.pinned_to_pb, pinned.adapters),
        recipe_digest=pinned.recipe_digest,
        final_prompt=pinned.final_prompt,
        attempt=pinned.attempt,
        router=pinned.router,
        portion=pinned.portion,
    )


def recipe_from_pb(message: fleet_pb2.WorkerRecipe) -> RecipeFacts:
    return RecipeFacts(
        name=message.name,
        digest=message.digest,
        family=message.family,
        base_digest=message.base_digest,
        sizes=tuple((size.width, size.height) for size in message.sizes),
        steps=tuple(message.steps),
        default_steps=message.default_steps,
        default_guidance=message.default_guidance,
        max_guidance=message.max_guidance,
        strict_base=message.strict_base,
    )


def recipe_to_pb(recipe: RecipeFacts) -> fleet_pb2.WorkerRecipe:
    return fleet_pb2.WorkerRecipe(
        name=recipe.name,
        digest=recipe.digest,
        family=recipe.family,
        base_digest=recipe.base_digest,
        sizes=[fleet_pb2.ImageSize(width=w, height=h) for w, h in recipe.sizes],
        steps=recipe.steps,
        default_steps=recipe.default_steps,
        default_guidance=recipe.default_guidance,
        max_guidance=recipe.max_guidance,
        strict_base=recipe.strict_base,
    )


def tier_to_pb(tier: Tier | None) -> pb.Tier.ValueType:
    return pb.Tier.Value(f"TIER_{tier.name}") if tier else pb.TIER_UNSPECIFIED


def tier_from_pb(tier: pb.Tier.ValueType) -> Tier | None:
    """None: it was not said, or is one that only newer releases know."""
    return _TIERS.get(tier)


def seconds_from_pb(field: str, duration: Duration) -> float:
    """Raises: Malformed, unless it is a time that can have passed."""
    if not 0 <= duration.seconds <= _LONGEST_S or not 0 <= duration.nanos < 10**9:
        raise Malformed(field, "must be from 0 to 10 000 years")
    return duration.ToNanoseconds() / 1e9


def duration_to_pb(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
