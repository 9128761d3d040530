"""Asking for pictures that cannot be painted, of a router and of a worker: both refuse alike, and say what to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from looksmith.errors import error_from_rpc
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1.adapter_pb2 import AdapterUse, PinnedAdapter
from tests.integration.bad_input.system import DOORS, System, asked, is_painted, pictures

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
UNFIT = grpc.StatusCode.FAILED_PRECONDITION
ABSURD = (1 << 32) - 1


@dataclass(frozen=True)
class Case:
    """A bad request, and how it is refused; ``says`` is what the message must tell whoever wants to do better."""

    request: pb.GenerateRequest
    code: grpc.StatusCode
    reason: str
    says: str
    field: str = ""
    fact: str = ""  # a key of the metadata


def use(**fields: object) -> list[AdapterUse]:
    return [AdapterUse(**{"adapter": "look", **fields})]  # type: ignore[arg-type]  # fields by name


def invalid(field: str, says: str, reason: str = "INVALID_ARGUMENT", **fields: object) -> Case:
    return Case(asked(**fields), INVALID, reason, says, field=field)


def missing(fact: str, reason: str, says: str, **fields: object) -> Case:
    return Case(asked(**fields), NOT_FOUND, reason, says, fact=fact)


def unfit(reason: str, says: str, **fields: object) -> Case:
    return Case(asked(**fields), UNFIT, reason, says, fact="adapter")


NAME = "must match [a-z0-9]"
CASES = {
    # What is not there
    "unknown brand": missing("brand", "BRAND_NOT_FOUND", "PutBrand", brand="nobody"),
    "unknown adapter": missing("adapter", "ADAPTER_NOT_FOUND", "publish", adapters=use(adapter="nothing")),
    "unknown alias": missing("alias", "ALIAS_NOT_FOUND", "production", adapters=use(alias="staging")),
    "unknown version": missing("version", "VERSION_NOT_FOUND", "1 to 2", adapters=use(version=3)),
    "absurd version": missing("version", "VERSION_NOT_FOUND", "1 to 2", adapters=use(version=ABSURD)),
    "unknown digest": missing("digest", "DIGEST_NOT_FOUND", "ListAdapterVersions", adapters=use(digest="0" * 64)),
    "unknown recipe": missing("recipe", "RECIPE_NOT_FOUND", "strict, studio", recipe="oils"),
    "recipe of 100 000 characters": invalid("recipe", NAME, recipe="x" * 100_000),
    # Names that are none
    "no brand": invalid("brand", "is required", brand=""),
    "brand that is a path": invalid("brand", NAME, brand="../acme"),
    "brand of 100 000 characters": invalid("brand", NAME, brand="x" * 100_000),
    "adapter that is a path": invalid("adapters[0].adapter", NAME, adapters=use(adapter="../look")),
    "alias like a version": invalid("adapters[0].alias", "must not be all digits", adapters=use(alias="12")),
    "version 0": invalid("adapters[0].version", "at least 1", adapters=use(version=0)),
    "digest that is none": invalid("adapters[0].digest", "64 lower-case hex", adapters=use(digest="ABC")),
    "request id with a control character": invalid("request_id", "128 printable", request_id="a\nb"),
    "request id too long": invalid("request_id", "128 printable", request_id="x" * 129),
    # Prompts
    "empty prompt": invalid("prompt", "is required", "PROMPT_EMPTY", prompt=""),
    "blank prompt": invalid("prompt", "is required", "PROMPT_EMPTY", prompt=" \t\n\u3000"),
    "prompt beyond the encoder": invalid("prompt", "allow_truncation", "PROMPT_TOO_LONG", prompt="a red apple " * 50),
    "megabyte of prompt": invalid("prompt", "8000 characters", "PROMPT_TOO_LONG", prompt="apple " * 170_000),
    # Numbers
    "absurd width": invalid("width", "128x128", "SIZE_UNSUPPORTED", width=ABSURD),
    "absurd height": invalid("height", "128x128", "SIZE_UNSUPPORTED", height=1),
    "absurd steps": invalid("steps", "1, 2, 4, 8", "STEPS_UNSUPPORTED", steps=ABSURD),
    "absurd count": invalid("count", "1 to 16", "COUNT_UNSUPPORTED", count=ABSURD),
    "count over the brand's limit": invalid("count", "2 images", "COUNT_UNSUPPORTED", brand="frugal", count=3),
    "guidance": invalid("guidance", "takes none", "GUIDANCE_UNSUPPORTED", guidance=7.5),
    "negative guidance": invalid("guidance", "at least 0", "GUIDANCE_UNSUPPORTED", guidance=-1),
    "guidance that is NaN": invalid("guidance", "at least 0", "GUIDANCE_UNSUPPORTED", guidance=math.nan),
    "weight over 2": invalid("adapters[0].weight", "from -2 to 2", adapters=use(weight=2.1)),
    "weight that is NaN": invalid("adapters[0].weight", "from -2 to 2", adapters=use(weight=math.nan)),
    "weight that is infinite": invalid("adapters[0].weight", "from -2 to 2", adapters=use(weight=-math.inf)),
    "image that is not asked for": invalid("images_done", "count is 1", images_done=[1]),
    "format that is none": invalid("image_format", "PNG", image_format=99),
    # Contradictions
    "four adapters": invalid("adapters", "at most 3", adapters=[AdapterUse(adapter=name) for name in "abcd"]),
    "one adapter twice": invalid("adapters[1].adapter", "used twice", adapters=[*use(), *use(version=2)]),
    "adapters and none": invalid("no_adapters", "contradicts adapters", adapters=use(), no_adapters=True),
    # Adapters that do not fit
    "another family": unfit("FAMILY_MISMATCH", "paints with studio", adapters=use(adapter="miniature")),
    "another base": unfit("BASE_MISMATCH", "recipe strict takes", recipe="strict", adapters=use(adapter="sister")),
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_a_bad_request_is_refused_by_reason_and_field(system: System, door: str, case: Case) -> None:
    error = await system.refused(door, case.request)
    assert (error.code, error.reason) == (case.code, case.reason), error.message
    assert [violation.field for violation in error.violations] == ([case.field] if case.field else [])
    assert case.says in error.message
    if case.fact:
        assert case.fact in error.metadata


PINNED = {
    "digest that is a path": ("pinned.adapters[0].digest", {"adapter": "look", "digest": "../../../tmp/x"}),
    "digest in capitals": ("pinned.adapters[0].digest", {"adapter": "look", "digest": "A" * 64}),
    "adapter that is a path": ("pinned.adapters[0].adapter", {"adapter": "../look", "digest": "0" * 64}),
    "weight that is NaN": ("pinned.adapters[0].weight", {"adapter": "look", "digest": "0" * 64, "weight": math.nan}),
}


@pytest.mark.parametrize(("field", "adapter"), PINNED.values(), ids=PINNED.keys())
async def test_a_worker_checks_what_whoever_calls_it_has_pinned(
    system: System, field: str, adapter: dict[str, object]
) -> None:
    accepted = (await system.generate("worker", asked(no_adapters=True)))[0].accepted
    pinned = pb.Pinned(adapters=[PinnedAdapter(**adapter)], recipe_digest=accepted.recipe_digest)  # type: ignore[arg-type]  # by name
    error = await system.refused("worker", asked(pinned=pinned))
    assert (error.code, [violation.field for violation in error.violations]) == (INVALID, [field])


async def test_a_worker_refuses_a_pinned_digest_that_the_brand_never_had(system: System) -> None:
    accepted = (await system.generate("worker", asked(no_adapters=True)))[0].accepted
    adapters = [PinnedAdapter(adapter="look", version=1, digest="0" * 64, weight=1)]
    pinned = pb.Pinned(adapters=adapters, recipe_digest=accepted.recipe_digest, final_prompt="an apple")
    error = await system.refused("worker", asked(pinned=pinned))
    assert (error.code, error.reason) == (NOT_FOUND, "DIGEST_NOT_FOUND")


async def test_a_router_lets_nobody_else_pin(system: System) -> None:
    error = await system.refused("router", asked(pinned=pb.Pinned(router="r9")))
    assert (error.code, error.violations[0].field) == (INVALID, "pinned")
    assert "set by routers" in error.message


@pytest.mark.parametrize("door", DOORS)
async def test_a_prompt_that_is_too_long_is_told_where_it_ends_and_painted_if_that_is_allowed(
    system: System, door: str
) -> None:
    prompt = "a red apple " * 12 + "beside a kite"
    error = await system.refused(door, asked(prompt=prompt))
    assert error.reason == "PROMPT_TOO_LONG"
    assert "beside a kite" in error.message
    served = await system.generate(door, asked(prompt=prompt, allow_truncation=True))
    (warning,) = served[-1].finished.warnings
    assert "beside a kite" in warning
    assert is_painted(pictures(served)[0])


@pytest.mark.parametrize("door", DOORS)
async def test_an_adapter_of_a_sister_base_is_served_with_a_warning(system: System, door: str) -> None:
    served = await system.generate(door, asked(adapters=use(adapter="sister")))
    (warning,) = served[0].accepted.warnings
    assert "acme/sister@1 was trained on base 555555555555" in warning
    assert is_painted(pictures(served)[0])


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "odd",
    [
        {"prompt": "日本の林檎 🍎 \u202e\x00<|endoftext|>"},
        {"adapters": use(weight=-2.0)},
        {"adapters": use(weight=0.0)},
        {"preview_every": ABSURD, "report_steps": True},
        {"negative_prompt": "ugly " * 1000},
    ],
    ids=lambda odd: next(iter(odd)),
)
async def test_what_is_odd_but_allowed_is_painted(system: System, door: str, odd: dict[str, object]) -> None:
    served = await system.generate(door, asked(steps=1, **odd))
    assert pictures(served)[0].shape == (128, 128, 3)


@pytest.mark.parametrize("door", DOORS)
async def test_the_largest_seed_is_followed_by_zero(system: System, door: str) -> None:
    served = await system.generate(door, asked(seed=2**64 - 1, count=2, steps=1))
    assert [r.image_done.seed for r in served if r.HasField("image_done")] == [2**64 - 1, 0]
    (alone,) = pictures(await system.generate(door, asked(seed=0, steps=1)))
    assert (pictures(served)[1] == alone).all()


async def test_no_stub_sends_a_seed_that_is_none() -> None:
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match="out of range"):
            pb.GenerateRequest(seed=seed)


async def test_a_request_id_is_not_reused_for_other_content(system: System) -> None:
    mine = asked(request_id="mine", steps=1)
    await system.generate("router", mine)
    for change in ({"prompt": "a kite"}, {"seed": 8}, {"count": 2}, {"adapters": use(version=2)}):
        error = await system.refused("router", asked(**{"request_id": "mine", "steps": 1, **change}))
        assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        assert error.metadata["request_id"] == "mine"
        assert "choose another" in error.message
    again = await system.generate("router", mine)
    assert len(pictures(again)) == 1


@pytest.mark.parametrize("door", DOORS)
async def test_bytes_that_are_no_request_end_their_call_only(system: System, door: str) -> None:
    bare: Any = system.channels[door].unary_stream("/looksmith.v1.ImageGenerationService/Generate")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [_ async for _ in bare(b"\x0a\x02\xff\xff", timeout=10)]  # a brand that is no UTF-8
    error = error_from_rpc(caught.value)
    assert (error.code, error.reason) == (INVALID, "NOT_A_MESSAGE")
    assert ".proto" in error.message


@pytest.mark.parametrize("door", DOORS)
async def test_a_message_over_the_limit_ends_its_call_only(system: System, door: str) -> None:
    error = await system.refused(door, asked(prompt="x" * (5 << 20)))
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
