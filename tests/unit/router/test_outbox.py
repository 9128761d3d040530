from services.router.members import Command, Drain, Evict, Prefetch
from services.router.outbox import Outbox


def outbox(capacity: int = 3) -> Outbox:
    return Outbox(filled=lambda: None, capacity=capacity)


def taken(box: Outbox) -> list[Command]:
    commands = []
    while command := box.take():
        commands.append(command)
    return commands


def test_commands_come_out_once_and_in_the_order_in_which_they_came() -> None:
    box = outbox()
    said: list[Command] = [Prefetch("acme", "a"), Evict("a"), Drain("rest")]
    for command in said:
        box.put(command)
    assert taken(box) == said
    assert box.take() is None


def test_of_commands_of_a_kind_about_an_adapter_the_newest_waits() -> None:
    box = outbox()
    for command in (Drain("first"), Prefetch("acme", "a"), Evict("a"), Prefetch("acme", "a"), Drain("second")):
        box.put(command)
    assert taken(box) == [Evict("a"), Prefetch("acme", "a"), Drain("second")]


def test_a_full_outbox_drops_its_oldest_prefetch_and_never_a_drain() -> None:
    box = outbox()
    for command in (Drain("rest"), Evict("e"), Prefetch("acme", "a"), Prefetch("acme", "b")):
        box.put(command)
    assert taken(box) == [Drain("rest"), Evict("e"), Prefetch("acme", "b")]


def test_an_outbox_full_of_other_commands_keeps_the_drain_and_the_newest_of_them() -> None:
    box = outbox()
    for command in (Drain("rest"), Evict("a"), Evict("b"), Evict("c")):
        box.put(command)
    assert taken(box) == [Drain("rest"), Evict("b"), Evict("c")]


def test_whoever_empties_the_outbox_is_called_for_each_command() -> None:
    calls: list[str] = []
    box = Outbox(filled=lambda: calls.append("filled"))
    box.put(Drain("rest"))
    box.put(Drain("rest"))
    assert calls == ["filled", "filled"]
