import socket
import sys
from pathlib import Path

import pytest

from looksmith.cli import stack
from looksmith.cli.stack import Ports, check_platform, check_ports, free_run
from looksmith.cli.terminal import Problem


def test_every_part_has_a_port_of_its_own() -> None:
    ports = Ports.from_base(7400).by_name(workers=8)
    assert len(set(ports.values())) == len(ports) == 5 + 8


def test_a_port_in_use_is_named_with_what_needs_it_and_the_option_that_moves_it() -> None:
    base = free_run(12)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 2))
        taken.listen()
        with pytest.raises(Problem, match=rf"port {base + 2} is taken, which the store needs \(--port \+ 2\).*--port"):
            check_ports(Ports.from_base(base), workers=2)
    check_ports(Ports.from_base(base), workers=2)


def test_a_second_worker_s_port_is_checked_too() -> None:
    base = free_run(12)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 11))
        taken.listen()
        with pytest.raises(Problem, match="worker-1"):
            check_ports(Ports.from_base(base), workers=2)


def test_another_platform_and_a_missing_checkout_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_platform()
    monkeypatch.setattr(stack, "CHECKOUT", tmp_path)
    with pytest.raises(Problem, match="needs a checkout"):
        check_platform()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(Problem, match="platform: the local stack runs on Linux, not on darwin"):
        check_platform()
