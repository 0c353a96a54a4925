"""How an embedding job stands, as people and programs are told."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from services.job_folder import JobSpec, Report, SpaceReport, SpaceSpec
from services.job_ledger import SEAL, Standing


class JobState(StrEnum):
    SUBMITTING = "submitting"
    """Redis does not know of it, yet or any more; if the submitter is gone, to be resumed."""

    QUEUED = "queued"
    RUNNING = "running"
    SEALING = "sealing"
    DONE = "done"
    FAILED = "failed"
    """Some chunk was given up; to be resumed once the reason is gone."""

    CANCELLED = "cancelled"


ENDED = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
"""States in which nothing happens by itself."""


class JobSpace(BaseModel):
    """A job in one space."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    space: str
    model: str
    fingerprint: str
    contents: int
    """Different ones that are to be embedded."""

    known: int
    """Items whose content was embedded before."""

    absent: int
    """Items that have no such content."""

    unreadable: int
    """Items whose content could not be read, or is none, such as an empty text."""

    version: str | None
    """The content bundle that it became, once the job is done; none where no content has a
    vector, and the one before stays in service."""

    vectors: int | None
    """Items of that bundle."""

    problems: int | None
    """Items that have a content and no vector, once the job is done."""

    returned: int | None
    """Live items that are not in that bundle, since another encoder embedded them, and were put
    back among those that wait to be embedded."""

    left: int | None
    """Such items for which there was no room: to be put in again."""


class Job(BaseModel):
    """A job as it stands."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    id: str
    state: JobState
    created: datetime
    dataset: str
    items: int
    spaces: list[JobSpace]
    contents: int
    """To be embedded."""

    embedded: int
    """Of these, how many are done."""

    without_vector: int
    """Contents that have none: they could not be read, or are none, such as a file that is no
    picture. So far; once the job is done, the items that have such a content."""

    rate: float | None
    """Contents a second since the job was last submitted or resumed."""

    seconds_left: float | None
    failures: dict[str, str]
    """Why a chunk was given up, by its number; or the sealing."""


def job_of(spec: JobSpec, report: Report | None, standing: Standing | None) -> Job:
    """The job: what it is to do, how it ended if it has, and how far Redis says it is."""
    state = state_of(spec, report, standing)
    spaces = {} if report is None else report.spaces
    embedded = 0 if standing is None else standing.contents
    rate = left = None
    if standing is not None and standing.fresh and standing.seconds > 0:
        rate = standing.fresh / standing.seconds
        left = (spec.contents - standing.contents) / rate if state == JobState.RUNNING else None
    return Job(
        id=spec.id,
        state=state,
        created=spec.created,
        dataset=str(spec.dataset),
        items=spec.items,
        spaces=[_space(each, spaces.get(each.space)) for each in spec.spaces],
        contents=spec.contents,
        embedded=spec.contents if report is not None else embedded,
        without_vector=_without_vector(spec, report, standing),
        rate=rate,
        seconds_left=left,
        failures={} if standing is None or state == JobState.CANCELLED else standing.missed,
    )


def _without_vector(spec: JobSpec, report: Report | None, standing: Standing | None) -> int:
    if report is not None:
        return sum(each.problems for each in report.spaces.values())
    unreadable = sum(each.unreadable for each in spec.spaces)
    return unreadable + (0 if standing is None else standing.problems)


def _space(spec: SpaceSpec, report: SpaceReport | None) -> JobSpace:
    return JobSpace(
        **spec.model_dump(exclude={"chunk", "first", "chunks"}),
        version=None if report is None else report.version,
        vectors=None if report is None else report.items,
        problems=None if report is None else report.problems,
        returned=None if report is None else report.returned,
        left=None if report is None else report.left,
    )


def state_of(spec: JobSpec, report: Report | None, standing: Standing | None) -> JobState:
    """The job's state."""
    if report is not None:
        return JobState.DONE
    if standing is None:
        return JobState.SUBMITTING
    if standing.cancelled:
        return JobState.CANCELLED
    failed = len(standing.missed.keys() - {SEAL})
    if SEAL in standing.missed or (failed and standing.done + failed >= standing.published):
        return JobState.FAILED
    if standing.done == spec.chunks:
        return JobState.SEALING
    return JobState.RUNNING if standing.done else JobState.QUEUED
