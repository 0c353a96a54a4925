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
import os
import re
import shlex
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1

ERRORS = {
    404: ("No such path", "there is nothing at this path; see /docs"),
    502: ("Bad gateway", "the service broke off while it answered; try again"),
    503: ("Not ready", "no replica is ready to answer; try again in a few seconds"),
    504: ("Gateway timeout", "the service did not answer in time; try again later"),
}
"""What HAProxy itself answers, as title and detail of a problem document."""


def launcher(folder: Path, binary: str, host: str) -> Path:
    """Write an executable into `folder` that starts `binary` through this file, on `host`."""
    path = folder / "haproxy"
    command = shlex.join([sys.executable, "-IS", str(Path(__file__).resolve()), binary, host])
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o700)
    return path


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
            *(["Retry-After: 2"] if status in (502, 503, 504) else []),
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
