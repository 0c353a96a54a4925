"""Loopback: the address that only this machine reaches, and its ports."""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"

PORTS = range(20_000, 30_000)
"""Where a free port is looked for: below those that Linux (32768 on) and macOS (49152 on) lend to
outgoing connections, one of which could take it before its server does, above the 10002 to 19999
of Ray's workers and below the node ports of Kubernetes."""


def free_port() -> int:
    """A TCP port of loopback that nothing listens on."""
    # Not the generator of the module, which two processes may have seeded alike.
    for port in random.SystemRandom().sample(PORTS, min(100, len(PORTS))):
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port found among {PORTS.start} to {PORTS.stop - 1}")
