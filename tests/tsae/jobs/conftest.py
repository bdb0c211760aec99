"""Plans of jobs on folders of images, made as the command makes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tsae.archive import Folder, Settings
from tsae.config import DEFAULT_MODEL
from tsae.inputs import list_inputs
from tsae.jobs import job_folder
from tsae.jobs import plan as planning
from tsae.model_facts import DEFAULT_QUALITY
from tsae.zoo import read_model_file


@pytest.fixture(scope="session")
def plan_job() -> Callable[..., job_folder.CompressJob]:
    """Plans a new archive of a folder of images."""
    model_file = read_model_file(DEFAULT_MODEL)

    def plan_job(source: Path, archive: Path | str, base: bytes | None = None, verify: bool = True) -> job_folder.CompressJob:
        listing = list_inputs(str(source))
        settings = Settings(str(source), listing.root, verify, None, DEFAULT_QUALITY)
        tasks, folder = planning.cut(listing.rows), Folder(str(archive))
        return planning.plan(listing, tasks, folder, model_file, settings, base, False, listing.failures, "cpu")

    return plan_job
