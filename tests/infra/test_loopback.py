"""Free ports of loopback."""

from __future__ import annotations

import random
import socket

import pytest

from infra import loopback
from infra.loopback import LOOPBACK, free_port


def test_a_free_port_is_none_that_outgoing_connections_are_lent() -> None:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        assert probe.getsockname()[1] not in loopback.PORTS
    assert free_port() in loopback.PORTS


def test_a_port_that_is_listened_on_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((LOOPBACK, free_port())) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(loopback, "PORTS", range(taken, taken + 1))
        with pytest.raises(OSError, match="no free port"):
            free_port()


def test_processes_with_the_same_seed_find_different_ports() -> None:
    ports = set()
    for _ in range(5):
        random.seed(0)
        ports.add(free_port())
    assert len(ports) > 1
