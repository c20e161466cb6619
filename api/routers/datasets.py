"""Datasets: tables that tasks can train on, uploaded once and kept by content."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, Path, Request, UploadFile, status

from api.problems import documented
from api.security import Ctx, Reader, Submitter
from tuner.errors import Conflict, NotFound, TooLarge
from tuner.service import datasets
from tuner.service.datasets import DatasetView

router = APIRouter(prefix="/datasets", tags=["catalogue"])

DatasetId = Annotated[int, Path(ge=1, lt=2**31, description="The dataset's id.", examples=[1])]


@router.get("", summary="Datasets", responses=documented())
def list_datasets(context: Ctx, _principal: Reader) -> list[DatasetView]:
    """Every dataset, by name, with its columns and its path for ``task.params``."""
    return datasets.list_datasets(context)


@router.post(
    "",
    summary="Upload a dataset",
    status_code=status.HTTP_201_CREATED,
    responses=documented(Conflict, TooLarge),
)
def add_dataset(
    request: Request,
    context: Ctx,
    principal: Submitter,
    file: Annotated[UploadFile, File(description="The table.")],
    name: Annotated[str, Form(max_length=255, description="What studies call it.")],
    format: Annotated[Literal["csv", "parquet"], Form()] = "csv",
) -> DatasetView:
    """Stores a CSV or Parquet table; the same content under the same name changes nothing."""
    return datasets.add_dataset(
        context,
        name,
        file.file,
        format=format,
        actor=principal.name,
        max_bytes=request.app.state.max_body_bytes,
    )


@router.get("/{dataset_id}", summary="Show a dataset", responses=documented(NotFound))
def show_dataset(context: Ctx, _principal: Reader, dataset_id: DatasetId) -> DatasetView:
    """One dataset."""
    return datasets.show_dataset(context, dataset_id)


@router.delete(
    "/{dataset_id}",
    summary="Delete a dataset",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=documented(NotFound),
)
def delete_dataset(context: Ctx, principal: Submitter, dataset_id: DatasetId) -> None:
    """Removes the dataset; its file goes with the last name that has its content."""
    datasets.delete_dataset(context, dataset_id, actor=principal.name)
