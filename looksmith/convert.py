"""Nouns to protobuf and back. Knows nothing about calls; refuses malformed fields as looksmith.nouns does."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from looksmith import nouns
from looksmith.nouns import (
    PRODUCTION,
    Adapter,
    AdapterManifest,
    AdapterRef,
    AdapterUse,
    AdapterVersion,
    Alias,
    Brand,
    BrandLimits,
    Lineage,
    Malformed,
    PinnedAdapter,
    VersionState,
)
from looksmith.v1 import adapter_pb2, brand_pb2

_STATES = {
    VersionState.READY: adapter_pb2.ADAPTER_VERSION_STATE_READY,
    VersionState.YANKED: adapter_pb2.ADAPTER_VERSION_STATE_YANKED,
}


def time_to_pb(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def time_from_pb(stamp: Timestamp, field: str = "time") -> datetime:
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise Malformed(field, "must lie in the years 1 to 9999") from None


def _pick_from_pb(message: adapter_pb2.AdapterRef | adapter_pb2.AdapterUse) -> int | str:
    match message.WhichOneof("pick"):
        case "alias":
            return nouns.check_alias("alias", message.alias)
        case "version":
            if message.version < 1:
                raise Malformed("version", "must be at least 1")
            return message.version
        case "digest":
            return nouns.check_digest("digest", message.digest)
    return PRODUCTION


def _pick_to_pb(message: adapter_pb2.AdapterRef | adapter_pb2.AdapterUse, pick: int | str) -> None:
    if isinstance(pick, int):
        message.version = pick
    elif nouns.is_digest(pick):
        message.digest = pick
    else:
        message.alias = pick


def ref_from_pb(message: adapter_pb2.AdapterRef) -> AdapterRef:
    return AdapterRef(message.brand, message.adapter, _pick_from_pb(message))


def ref_to_pb(ref: AdapterRef) -> adapter_pb2.AdapterRef:
    message = adapter_pb2.AdapterRef(brand=ref.brand, adapter=ref.adapter)
    _pick_to_pb(message, ref.pick)
    return message


def use_from_pb(message: adapter_pb2.AdapterUse) -> AdapterUse:
    weight = message.weight if message.HasField("weight") else 1.0
    return AdapterUse(message.adapter, _pick_from_pb(message), weight)


def uses_from_pb(field: str, messages: list[adapter_pb2.AdapterUse]) -> tuple[AdapterUse, ...]:
    """Uses of a repeated field; a malformed one is named with its index.

    Raises:
        Malformed: a use is malformed, there are more than MAX_ADAPTERS, or one adapter is used twice.
    """
    if len(messages) > nouns.MAX_ADAPTERS:
        raise Malformed(field, f"at most {nouns.MAX_ADAPTERS} adapters can be used together, not {len(messages)}")
    uses: list[AdapterUse] = []
    for i, message in enumerate(messages):
        try:
            use = use_from_pb(message)
        except Malformed as error:
            raise Malformed(f"{field}[{i}].{error.field}", error.description) from None
        if any(use.adapter == other.adapter for other in uses):
            raise Malformed(f"{field}[{i}].adapter", f"{use.adapter!r} is used twice")
        uses.append(use)
    return tuple(uses)


def use_to_pb(use: AdapterUse) -> adapter_pb2.AdapterUse:
    message = adapter_pb2.AdapterUse(adapter=use.adapter, weight=use.weight)
    _pick_to_pb(message, use.pick)
    return message


def pinned_from_pb(message: adapter_pb2.PinnedAdapter) -> PinnedAdapter:
    return PinnedAdapter(message.adapter, message.version, message.digest, message.weight)


def pinned_to_pb(pinned: PinnedAdapter) -> adapter_pb2.PinnedAdapter:
    return adapter_pb2.PinnedAdapter(
        adapter=pinned.adapter, version=pinned.version, digest=pinned.digest, weight=pinned.weight
    )


def alias_from_pb(message: adapter_pb2.Alias) -> Alias:
    return Alias(message.name, message.version, time_from_pb(message.update_time))


def alias_to_pb(alias: Alias) -> adapter_pb2.Alias:
    return adapter_pb2.Alias(name=alias.name, version=alias.version, update_time=time_to_pb(alias.update_time))


def adapter_from_pb(message: adapter_pb2.Adapter) -> Adapter:
    return Adapter(
        brand=message.brand,
        name=message.name,
        latest_version=message.latest_version,
        aliases=tuple(map(alias_from_pb, message.aliases)),
        seq=message.seq,
        create_time=time_from_pb(message.create_time),
        update_time=time_from_pb(message.update_time),
        withdrawn_versions=tuple(message.withdrawn_versions),
    )


def adapter_to_pb(adapter: Adapter) -> adapter_pb2.Adapter:
    return adapter_pb2.Adapter(
        brand=adapter.brand,
        name=adapter.name,
        latest_version=adapter.latest_version,
        aliases=map(alias_to_pb, adapter.aliases),
        seq=adapter.seq,
        create_time=time_to_pb(adapter.create_time),
        update_time=time_to_pb(adapter.update_time),
        withdrawn_versions=adapter.withdrawn_versions,
    )


def lineage_from_pb(message: adapter_pb2.Lineage) -> Lineage:
    return Lineage(tuple(message.trigger_words), message.clip_skip, message.prediction_type, message.trained_from)


def lineage_to_pb(lineage: Lineage) -> adapter_pb2.Lineage | None:
    if lineage == Lineage():
        return None
    return adapter_pb2.Lineage(
        trigger_words=lineage.trigger_words,
        clip_skip=lineage.clip_skip,
        prediction_type=lineage.prediction_type,
        trained_from=lineage.trained_from,
    )


def manifest_from_pb(message: adapter_pb2.AdapterManifest) -> AdapterManifest:
    return AdapterManifest(
        family=message.family,
        base_digest=message.base_digest,
        dialect=message.dialect,
        modules=message.modules,
        parameters=message.parameters,
        ranks=tuple(message.ranks),
        components=tuple(message.components),
        convolutions=message.convolutions,
        warnings=tuple(message.warnings),
        lineage=lineage_from_pb(message.lineage),
    )


def manifest_to_pb(manifest: AdapterManifest) -> adapter_pb2.AdapterManifest:
    return adapter_pb2.AdapterManifest(
        family=manifest.family,
        base_digest=manifest.base_digest,
        dialect=manifest.dialect,
        modules=manifest.modules,
        parameters=manifest.parameters,
        ranks=manifest.ranks,
        components=manifest.components,
        convolutions=manifest.convolutions,
        warnings=manifest.warnings,
        lineage=lineage_to_pb(manifest.lineage),
    )


def version_from_pb(message: adapter_pb2.AdapterVersion) -> AdapterVersion:
    yanked = message.state == adapter_pb2.ADAPTER_VERSION_STATE_YANKED
    return AdapterVersion(
        brand=message.brand,
        adapter=message.adapter,
        version=message.version,
        digest=message.digest,
        size_bytes=message.size_bytes,
        manifest=manifest_from_pb(message.manifest),
        publish_time=time_from_pb(message.publish_time),
        state=VersionState.YANKED if yanked else VersionState.READY,
        publisher=message.publisher,
        note=message.note,
        labels=dict(message.labels),
    )


def version_to_pb(version: AdapterVersion) -> adapter_pb2.AdapterVersion:
    return adapter_pb2.AdapterVersion(
        brand=version.brand,
        adapter=version.adapter,
        version=version.version,
        digest=version.digest,
        size_bytes=version.size_bytes,
        state=_STATES[version.state],
        manifest=manifest_to_pb(version.manifest),
        publish_time=time_to_pb(version.publish_time),
        publisher=version.publisher,
        note=version.note,
        labels=version.labels,
    )


def brand_from_pb(message: brand_pb2.Brand) -> Brand:
    limits = message.limits
    return Brand(
        name=message.name,
        display_name=message.display_name,
        default_adapters=uses_from_pb("default_adapters", list(message.default_adapters)),
        prompt_template=message.prompt_template,
        negative_prompt=message.negative_prompt,
        recipe=message.recipe,
        fair_share_weight=message.fair_share_weight or 1.0,
        limits=BrandLimits(
            max_queued_jobs=limits.max_queued_jobs,
            max_images_per_request=limits.max_images_per_request,
            max_gpu_seconds_per_minute=limits.max_gpu_seconds_per_minute,
            max_stored_bytes=limits.max_stored_bytes,
        ),
        version=message.version,
        update_time=time_from_pb(message.update_time, "update_time") if message.HasField("update_time") else None,
        default_width=message.default_width,
        default_height=message.default_height,
    )


def brand_to_pb(brand: Brand) -> brand_pb2.Brand:
    return brand_pb2.Brand(
        name=brand.name,
        display_name=brand.display_name,
        default_adapters=map(use_to_pb, brand.default_adapters),
        prompt_template=brand.prompt_template,
        negative_prompt=brand.negative_prompt,
        recipe=brand.recipe,
        fair_share_weight=brand.fair_share_weight,
        limits=brand_pb2.BrandLimits(
            max_queued_jobs=brand.limits.max_queued_jobs,
            max_images_per_request=brand.limits.max_images_per_request,
            max_gpu_seconds_per_minute=brand.limits.max_gpu_seconds_per_minute,
            max_stored_bytes=brand.limits.max_stored_bytes,
        ),
        version=brand.version,
        update_time=time_to_pb(brand.update_time),
        default_width=brand.default_width,
        default_height=brand.default_height,
    )
