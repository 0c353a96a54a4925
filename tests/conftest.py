"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: `RECSYS_SHARED_DATA`, or ../shared/data beside the project."""
    folder = Path(os.environ.get("RECSYS_SHARED_DATA", PROJECT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.fail(
            f"the real data sets are not in {folder}: set RECSYS_SHARED_DATA to the folder that "
            "holds ml-100k/, ml-1m/ and ml-latest-small/",
            pytrace=False,
        )
    return folder
