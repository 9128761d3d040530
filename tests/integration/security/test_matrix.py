"""Every RPC of every server, found by reflection, against everyone who might knock: only the right one gets in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

import grpc
import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from looksmith.v1 import adapter_pb2, generation_pb2
from tests.integration.security.calls import OLD, REQUESTS, Answer, Rpc, called, rpcs_of, services_of
from tests.integration.security.secured_system import Secured
from tests.unit.chassis.authority import Authority
from tests.unit.gpu_worker.worker_parts import facts

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

HEALTH = "grpc.health.v1.Health"
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


async def every_rpc(system: Secured) -> list[Rpc]:
    """Of all servers, with reflection and channelz, and without health, which is everybody's."""
    found: list[Rpc] = []
    for server in system.servers:
        async with system.dial(server) as channel:
            services = await services_of(channel, "token-of-all")
        found += rpcs_of(server, [service for service in services if service != HEALTH])
    return found


async def state(system: Secured) -> object:
    """What strangers must not change: the store, and who is in the fleet and does what."""
    async with system.fleet() as fleet:
        workers = [(each.name, each.state, each.heartbeat.draining) for each in await fleet.list_workers()]
    kept = {key: data for key, data in system.store.objects.items() if "/probe/" not in key and "/feed/" not in key}
    return kept, workers


async def answers(
    system: Secured,
    rpcs: list[Rpc],
    dial: Callable[[str], grpc.aio.Channel],
    token: str | Callable[[Rpc], str],
) -> dict[Rpc, Answer]:
    """How each RPC answers to one kind of caller, over one connection to each server."""
    async with AsyncExitStack() as stack:
        channels = {server: await stack.enter_async_context(dial(server)) for server in system.servers}
        tokens = {rpc: token if isinstance(token, str) else token(rpc) for rpc in rpcs}
        return {rpc: await called(channels[rpc.server], rpc, tokens[rpc]) for rpc in rpcs}


def wrong(found: dict[Rpc, Answer], *expected: grpc.StatusCode | None) -> list[str]:
    return [f"{rpc}: {answer}" for rpc, answer in found.items() if answer.code not in expected]


async def test_the_servers_are_asked_about_everything_that_they_serve(system: Secured) -> None:
    rpcs = await every_rpc(system)
    assert {rpc.server for rpc in rpcs} == {"registry", "router", "worker"}
    served = {str(rpc) for rpc in rpcs}
    assert {"router/looksmith.v1.FleetService/Join", "worker/looksmith.v1.ImageGenerationService/Generate"} <= served
    assert len(served) > 40


async def test_without_a_connection_of_its_own_kind_nobody_gets_in_whatever_token_it_has(system: Secured) -> None:
    rpcs, before = await every_rpc(system), await state(system)
    strangers = Authority(system.folder, "strangers")
    expired = system.ca.issue("was-caller", days=-1)
    foreign = strangers.issue("caller-of-strangers")
    kinds: dict[str, Callable[[str], grpc.aio.Channel]] = {
        "plaintext": lambda server: system.dial(server, plaintext=True),
        "no certificate": lambda server: system.dial(server, system.ca.credentials()),
        "expired certificate": lambda server: system.dial(server, system.ca.credentials(expired)),
        "certificate of another CA": lambda server: system.dial(server, system.ca.credentials(foreign)),
        "trusts another CA": lambda server: system.dial(server, strangers.credentials(system.caller)),
    }
    for kind, dial in kinds.items():
        found = await answers(system, rpcs, dial, "token-of-all")
        assert not wrong(found, grpc.StatusCode.UNAVAILABLE), kind
    assert await state(system) == before


async def test_without_a_token_that_is_known_nobody_gets_in(system: Secured) -> None:
    rpcs, before = await every_rpc(system), await state(system)
    for token in ("", "token-of-nobody", "keda.keda.svc"):
        assert not wrong(await answers(system, rpcs, system.dial, token), UNAUTHENTICATED)
    assert await state(system) == before


async def test_another_brands_token_gets_nothing_and_changes_nothing(system: Secured) -> None:
    rpcs, before = [rpc for rpc in await every_rpc(system) if rpc.rule], await state(system)
    with capture_logs([merge_contextvars]) as lines:
        found = await answers(system, rpcs, system.dial, "token-of-bolt")
    lists = {rpc: answer for rpc, answer in found.items() if rpc.method.name == "ListBrands"}
    assert not wrong({rpc: answer for rpc, answer in found.items() if rpc not in lists}, DENIED)
    assert not any(b"acme" in answer.said for answer in lists.values())
    tried = {line["rpc"]: line for line in lines if line["event"] == "audit"}
    assert tried.keys() == {rpc.name[1:] for rpc in rpcs if rpc.rule and rpc.rule.audited is not None}
    assert {(line["caller"], line["outcome"]) for line in tried.values()} == {("token-of-bolt", "NOT_ALLOWED")}
    published = tried["looksmith.v1.AdapterRegistryService/PublishAdapter"]
    assert (published["brand"], published["adapter"]) == ("acme", "style")
    assert await state(system) == before


async def test_the_token_of_one_brand_does_not_reach_what_is_everybodys(system: Secured) -> None:
    rpcs, before = [rpc for rpc in await every_rpc(system) if rpc.rule and not rpc.of_a_brand], await state(system)
    assert {"Join", "DrainWorker", "GetUsage", "CollectGarbage", "GetMetrics"} <= {rpc.method.name for rpc in rpcs}
    assert not wrong(await answers(system, rpcs, system.dial, "token-of-acme"), DENIED)
    assert await state(system) == before


async def test_who_may_do_one_thing_may_do_no_other(system: Secured) -> None:
    """The router's token reads and paints, the worker's reads and joins: neither looks after anything."""
    rpcs, before = [rpc for rpc in await every_rpc(system) if rpc.rule], await state(system)
    for token, actions in (("token-of-router", {"read", "generate"}), ("token-of-worker", {"read", "serve"})):
        beyond = [rpc for rpc in rpcs if rpc.rule and not actions & {need.action for need in rpc.rule.needs}]
        assert len(beyond) > 15
        assert not wrong(await answers(system, beyond, system.dial, token), DENIED)
    assert await state(system) == before


async def test_scalers_are_known_by_their_certificate_alone(system: Secured) -> None:
    rpcs = [rpc for rpc in await every_rpc(system) if rpc.rule]
    keda = system.ca.credentials(system.ca.issue("scaler", "keda.keda.svc"))
    scaling = [rpc for rpc in rpcs if "ExternalScaler" in rpc.name]
    assert len(scaling) == 4
    beyond = [rpc for rpc in rpcs if rpc.rule and "operate" not in {need.action for need in rpc.rule.needs}]
    before = await state(system)
    found = await answers(system, scaling + beyond, lambda server: system.dial(server, keda), "")
    assert not wrong({rpc: found[rpc] for rpc in scaling}, None, grpc.StatusCode.INVALID_ARGUMENT)
    assert not wrong({rpc: found[rpc] for rpc in beyond}, DENIED)
    assert await state(system) == before


async def test_nobody_borrows_another_brands_look_by_knowing_its_digest(system: Secured) -> None:
    """A worker holds files by digest; what a router pins is believed of callers alone who may use every brand."""
    (rpc,) = (rpc for rpc in await every_rpc(system) if (rpc.server, rpc.method.name) == ("worker", "Generate"))
    look = adapter_pb2.PinnedAdapter(adapter="style", version=1, digest=OLD.digest, weight=1.0)
    pinned = generation_pb2.Pinned(adapters=[look], recipe_digest=facts().digest)
    request = generation_pb2.GenerateRequest(brand="bolt", prompt="a kite", steps=1, pinned=pinned)
    async with system.dial("worker") as channel:
        painted = await called(channel, rpc, "token-of-acme", request=REQUESTS["Generate"])
        assert painted.code is None
        assert (await called(channel, rpc, "token-of-bolt", request=request)).code is DENIED
        assert (await called(channel, rpc, "token-of-router", request=request)).code is not DENIED


async def test_the_right_one_gets_past_everywhere(system: Secured) -> None:
    """Last: it changes what the others were held against."""
    rpcs = await every_rpc(system)
    last = ("DeleteBrand", "DrainWorker", "ResetWorker")  # the others need what these take away
    rpcs = sorted(rpcs, key=lambda rpc: last.index(rpc.method.name) if rpc.method.name in last else -1)
    token = {rpc: "token-of-acme" if rpc.of_a_brand else "token-of-all" for rpc in rpcs}
    with capture_logs([merge_contextvars]) as lines:
        found = await answers(system, rpcs, system.dial, lambda rpc: token[rpc])
    refused = {UNAUTHENTICATED, DENIED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
    assert not [f"{rpc}: {answer}" for rpc, answer in found.items() if answer.code in refused]
    went_well = {rpc.method.name for rpc, answer in found.items() if answer.code is None}
    assert {"Generate", "Join", "PromoteAdapter", "DownloadAdapter", "GetUsage", "GetMetricSpec"} <= went_well
    audited = {line["rpc"]: line for line in lines if line["event"] == "audit"}
    assert audited.keys() == {rpc.name[1:] for rpc in rpcs if rpc.rule and rpc.rule.audited is not None}
    whose = {rpc.name[1:]: token[rpc] for rpc in rpcs}
    assert all(line["caller"] == whose[rpc] for rpc, line in audited.items())
    assert {line["brand"] for line in audited.values() if "brand" in line} == {"acme"}
