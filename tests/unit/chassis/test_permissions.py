"""The table of what RPCs need, against the descriptors: none may be forgotten, none may name what is not there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from looksmith.nouns import Action
from looksmith.v1 import adapter_pb2, brand_pb2, fleet_pb2, generation_pb2, registry_pb2
from services.chassis.access import Caller, NotAllowed
from services.chassis.permissions import PERMISSIONS, Reach
from services.router.keda import externalscaler_pb2


def methods() -> Iterator[MethodDescriptor]:
    """Every RPC of ours."""
    for module in (adapter_pb2, brand_pb2, fleet_pb2, generation_pb2, registry_pb2, externalscaler_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def full_name(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


BY_NAME = {full_name(method): method for method in methods()}


def test_every_rpc_says_what_it_needs() -> None:
    assert {*PERMISSIONS} == {*BY_NAME}


@pytest.mark.parametrize("name", PERMISSIONS)
def test_every_field_of_a_rule_is_a_field_of_the_request(name: str) -> None:
    rule, request = PERMISSIONS[name], BY_NAME[name].input_type
    for path in [need.brand for need in rule.needs if need.brand] + [*(rule.audited or {}).values()]:
        message: Descriptor | None = request
        *way, last = path.split(".")
        for part in way:
            assert message
            message = message.fields_by_name[part].message_type
        assert message and message.fields_by_name[last].type != FieldDescriptor.TYPE_MESSAGE, path


@pytest.mark.parametrize("name", PERMISSIONS)
def test_what_names_a_brand_needs_that_brand_and_no_other(name: str) -> None:
    rule, method = PERMISSIONS[name], BY_NAME[name]
    for need in rule.needs:
        if not need.brand:
            continue
        request = GetMessageClass(method.input_type)()
        *way, last = need.brand.split(".")
        inner = request
        for part in way:
            inner = getattr(inner, part)
        setattr(inner, last, "acme")
        rule.check_request(Caller("right", frozenset({need.action}), ("acme",)), request)
        for wrong in (
            Caller("other brand", frozenset(Action), ("bolt",)),
            Caller("other actions", frozenset(Action) - {each.action for each in rule.needs}, ("*",)),
        ):
            with pytest.raises(NotAllowed):
                rule.check_request(wrong, request)


@pytest.mark.parametrize("name", PERMISSIONS)
def test_what_names_no_brand_needs_all_of_them_or_leaves_it_to_the_servicer(name: str) -> None:
    rule = PERMISSIONS[name]
    request = GetMessageClass(BY_NAME[name].input_type)()
    of_one = Caller("one brand", frozenset(Action), ("acme",))
    if any(need.unnamed is Reach.SOME for need in rule.needs):
        rule.check_request(of_one, request)
    else:
        with pytest.raises(NotAllowed):
            rule.check_request(of_one, request)
    of_all = Caller("all brands", frozenset({rule.needs[0].action}), ("*",))
    rule.check_caller(of_all)
    rule.check_request(of_all, request)


def test_a_stranger_is_refused_before_its_request_is_read() -> None:
    reader = Caller("reader", frozenset({Action.READ}), ("*",))
    refused = {name for name, rule in PERMISSIONS.items() if not any(need.met_by(reader) for need in rule.needs)}
    assert {"/looksmith.v1.FleetService/Join", "/looksmith.v1.ImageGenerationService/Generate"} <= refused
    assert "/looksmith.v1.AdapterRegistryService/GetAdapter" not in refused


#: Changes something: everything that is no question. A new RPC is added here or to CHANGES.
ASKS = ("Get", "List", "Resolve", "Download", "Watch", "Check", "Explain", "Is", "StreamIs", "Generate", "Join")


def test_what_changes_something_is_audited_and_what_only_asks_is_not() -> None:
    told = {name.rpartition("/")[2] for name, rule in PERMISSIONS.items() if rule.audited is not None}
    changing = {method.name for method in BY_NAME.values() if not method.name.startswith(ASKS)}
    assert told == changing
