"""`recsys doctor`: what this machine has, and what the settings are."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

from rich.markup import escape
from rich.table import Table

from infra.errors import RecsysError
from services.cli.console import AsJson, out, print_json, told

NAME = "doctor"
PACKAGES = (
    "ray",
    "torch",
    "faiss-cpu",
    "sentence-transformers",
    "redis",
    "pyarrow",
    "numpy",
    "fastapi",
)


def command(as_json: AsJson = False) -> None:
    """Print what this machine has, the versions and the settings; fail if something is amiss."""
    import faiss
    import torch

    from infra.redis import connect, redis_server
    from infra.settings import load_settings

    settings = load_settings()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "gpus": gpus or "none (CPU training, gloo)",
        "faiss": faiss.get_compile_options().strip(),
        **{name: version(name) for name in PACKAGES},
    }
    problem: str | None = None
    try:
        with redis_server(settings) as url:
            server = connect(url).info("server")
            found["redis server"] = (
                f"{server.get('server_name', 'redis')} "
                f"{server.get('valkey_version', server['redis_version'])}"
                f" ({'private' if settings.redis_url is None else 'RECSYS_REDIS_URL'})"
            )
    except (RecsysError, OSError) as error:
        problem = told(error)
    values = settings.model_dump(mode="json")
    if as_json:
        print_json({"machine": found, "settings": values, "problem": problem})
    else:
        out.print(_table("This machine", found))
        out.print(_table("Settings (set with RECSYS_<NAME>)", values))
    if problem:
        raise RecsysError(problem)
    if not as_json:
        out.print("[green]Everything that recsys needs is here.[/]")


def _table(title: str, rows: dict[str, Any]) -> Table:
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, escape(str(value)))
    return table
