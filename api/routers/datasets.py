"""Datasets: tables and arrays that tasks can train on, uploaded once and kept by content."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, status
from fastapi.responses import FileResponse

from api.body import Body
from api.problems import documented
from api.security import Ctx, Principal, Reader, Submitter, TokenFirst, require
from tuner.errors import Conflict, NotFound, TooLarge
from tuner.service import datasets
from tuner.service.datasets import DatasetView

router = APIRouter(route_class=TokenFirst, prefix="/datasets", tags=["catalogue"])

DatasetId = Annotated[int, Path(ge=1, lt=2**31, description="The dataset's id.", examples=[1])]
Checksum = Annotated[
    str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the content, in hexadecimal.")
]


@router.get("", summary="Datasets", responses=documented())
def list_datasets(context: Ctx, _principal: Reader) -> list[DatasetView]:
    """Every dataset, by name, with what it holds and how a study names it."""
    return datasets.list_datasets(context)


@router.post(
    "",
    summary="Upload a dataset",
    status_code=status.HTTP_201_CREATED,
    responses=documented(Conflict, TooLarge),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The file, as it is.",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
def add_dataset(
    request: Request,
    context: Ctx,
    principal: Submitter,
    name: Annotated[str, Query(min_length=1, max_length=255, description="For studies to use.")],
    format: Annotated[Literal["csv", "parquet", "npz"], Query()] = "csv",
) -> DatasetView:
    """Stores a table (CSV, Parquet) or arrays (npz): `curl -T iris.csv ".../datasets?name=iris"`.

    The body is written to disk as it comes, and looked into before it is kept. The same content
    under the same name changes nothing. A study then says `path: dataset:iris`.
    """
    return datasets.add_dataset(
        context,
        name,
        Body(request),
        format=format,
        actor=principal.name,
        max_bytes=request.app.state.max_dataset_bytes,
    )


@router.get("/{dataset_id}", summary="Show a dataset", responses=documented(NotFound))
def show_dataset(context: Ctx, _principal: Reader, dataset_id: DatasetId) -> DatasetView:
    """One dataset."""
    return datasets.show_dataset(context, dataset_id)


@router.get(
    "/files/{sha256}",
    summary="Download a dataset",
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The file."},
        **documented(NotFound),
    },
    response_class=FileResponse,
)
def download_dataset(
    context: Ctx,
    _principal: Annotated[Principal, Depends(require("read", "work"))],
    sha256: Checksum,
) -> FileResponse:
    """A dataset's content by its checksum, as workers fetch it."""
    path = datasets.dataset_file(context, sha256)
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)


@router.delete(
    "/{dataset_id}",
    summary="Delete a dataset",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=documented(NotFound, Conflict),
)
def delete_dataset(context: Ctx, principal: Submitter, dataset_id: DatasetId) -> None:
    """Removes a dataset that no open study uses; its file goes with the last name that has it."""
    datasets.delete_dataset(context, dataset_id, actor=principal.name)
