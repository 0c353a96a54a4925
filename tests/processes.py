"""What runs on this machine, as the tests that kill things need to know it."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterable
from pathlib import Path


def processes_whose_command_holds(text: str) -> list[int]:
    """The ids of this process's descendants with the text in their command line."""
    return [pid for pid in descendants(os.getpid()) if text in command(pid)]


def descendants(of: int) -> list[int]:
    """The ids of all processes below this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            children.setdefault(_parent(int(entry.name)), []).append(int(entry.name))
    found: list[int] = []
    level = [of]
    while level:
        level = [child for pid in level for child in children.get(pid, [])]
        found += level
    return found


def _parent(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return int(status.rpartition(")")[2].split()[1])


def command(pid: int) -> str:
    """Its command line; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pids: Iterable[int]) -> list[int]:
    """Those that still run; a zombie does not."""
    return [pid for pid in pids if _state(pid) not in ("", "Z")]


def listening(pids: Iterable[int]) -> dict[str, int]:
    """The addresses that the processes listen on over TCP, and the port's owner of each."""
    owners = {inode: pid for pid in pids for inode in _sockets(pid)}
    found: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            local, state, inode = fields[1], fields[3], fields[9]
            if state == "0A" and inode in owners:
                found[_address(local)] = owners[inode]
    return found


def off_loopback(addresses: Iterable[str]) -> list[str]:
    """Those that another machine may reach."""
    return [address for address in addresses if not _loopback(address.rpartition(":")[0])]


def _loopback(host: str) -> bool:
    address = ipaddress.ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _sockets(pid: int) -> list[str]:
    """The inodes of a process's sockets."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            found.append(target[8:-1])
    return found


def _address(local: str) -> str:
    """`127.0.0.1:80` from `0100007F:0050`: words of the machine's own byte order."""
    host, port = local.split(":")
    words = [int(host[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(host), 8)]
    return f"{ipaddress.ip_address(b''.join(words))}:{int(port, 16)}"


def _state(pid: int) -> str:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return status.rpartition(")")[2].split()[0]
