"""The paths of the HTTP API that concern jobs."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated

from fastapi import FastAPI, Path, Request, Response
from pydantic import model_validator

from encoders.catalog import UnknownSpace
from encoders.checkpoint import NoModel
from recsys.data.dataset import NoDataset
from recsys.embedding_store import BrokenPart
from services.allowed_models import RefusedModel
from services.bodies import Id, Place, ReplyBody, RequestBody
from services.http import JOBS, body_of, json_reply, operation
from services.job_folder import NoJob
from services.job_plan import NothingToEmbed
from services.jobs import Job, Jobs, RefusedDataset
from services.problems import Invalid, ServiceError, UnknownJob, parse
from services.schemas import FieldError


class JobRequest(RequestBody):
    """Have the items of a Dataset embedded into the content spaces whose encoders are named."""

    model_config = RequestBody.model_config | {
        "json_schema_extra": {
            "examples": [
                {
                    "dataset": "/data/films",
                    "text_model": "sentence-transformers/all-MiniLM-L6-v2",
                }
            ]
        }
    }

    dataset: Place
    """The folder of a Dataset as the service sees it, under one of RECSYS_DATASET_ROOTS."""

    text_model: Place | None = None
    """The text encoder, by name (perhaps with `@revision`) or folder: the default one, which is the
    example's, or one that RECSYS_ENCODER_MODELS lists."""

    image_model: Place | None = None
    """The image encoder, by name (perhaps with `@revision`) or folder: one that
    RECSYS_ENCODER_MODELS lists."""

    @model_validator(mode="after")
    def _some(self) -> JobRequest:
        if self.text_model is None and self.image_model is None:
            raise ValueError("give text_model, image_model, or both: there is nothing to embed by")
        return self


class JobsReply(ReplyBody):
    jobs: list[Job]
    """The newest, newest first."""


JOB_REQUESTS = (JobRequest,)

JobId = Annotated[Id, Path()]


def add_jobs(app: FastAPI, jobs: Jobs) -> None:
    """Add the paths."""

    @app.post(
        "/v1/jobs",
        status_code=202,
        **operation(JOBS, "Embed a Dataset", Job, JobRequest, status=202),
    )
    async def submit(request: Request) -> Response:
        """Answers once the Dataset is read: the workers do the rest, and `Location` says where it
        is told how far they are. Asked for again before the job is done, it is the same job."""
        asked = parse(JobRequest, await body_of(request))
        named = {"text": asked.text_model, "image": asked.image_model}
        models = {space: model for space, model in named.items() if model is not None}
        try:
            job = await jobs.submit(FilePath(asked.dataset), models)
        except RefusedModel as error:
            field = FieldError(field=f"{error.space}_model", message=error.message)
            raise Invalid(f"{field.field}: {field.message}", [field]) from None
        except (NoDataset, RefusedDataset, NothingToEmbed, NoModel, UnknownSpace) as error:
            raise Invalid(error.message) from None
        except (BrokenPart, NoJob) as error:
            raise ServiceError(error.message) from error
        reply = _json(job, 202)
        reply.headers["Location"] = f"/v1/jobs/{job.id}"
        return reply

    @app.get("/v1/jobs", **operation(JOBS, "List the newest jobs", JobsReply))
    async def newest() -> Response:
        return _json(JobsReply(jobs=await jobs.newest()))

    @app.get("/v1/jobs/{job_id}", **operation(JOBS, "Look at a job", Job))
    async def job(job_id: JobId) -> Response:
        try:
            return _json(await jobs.get(job_id))
        except NoJob as error:
            raise _unknown(error) from None

    @app.delete("/v1/jobs/{job_id}", **operation(JOBS, "Cancel a job", Job))
    async def cancel(job_id: JobId) -> Response:
        try:
            return _json(await jobs.cancel(job_id))
        except NoJob as error:
            raise _unknown(error) from None


def _json(reply: Job | JobsReply, status: int = 200) -> Response:
    return json_reply(reply.model_dump_json().encode(), status)


def _unknown(error: NoJob) -> ServiceError:
    return UnknownJob(error.message)
