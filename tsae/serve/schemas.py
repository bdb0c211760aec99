"""What goes in and out as JSON: for the OpenAPI description, and to check a body. Answers themselves are plain objects."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _whole(value: Any) -> Any:
    """In JSON, 32.0 is an integer too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class ImageFacts(BaseModel):
    """What is known of an image."""

    key: str
    label: str | None = Field(description="From the input; null for none")
    width: int = Field(description="Of the original image, in px")
    height: int = Field(description="Of the original image, in px")
    psnr_db: float | None = Field(description="Of the image decoded from its stream; null where it was not measured")
    bytes: int = Field(description="Of its stream, and of its lossless file where there is one")
    lossless: bool = Field(description="Whether it is stored losslessly as well: then it comes back exactly")
    quality: int | None = Field(description="Operating point of its stream; null for a model that has none")
    version: str = Field(description="Of model and record; `v` of URLs that never change")
    url: str = Field(description="Path of the image, with its version")


class ImagePage(BaseModel):
    """Some of the images that a query finds."""

    state: str = Field(description="Digest of the state of the archive")
    total: int = Field(description="Images that the query finds")
    next: str | None = Field(description="`after` of the next page; null on the last one")
    images: list[ImageFacts]


class Histogram(BaseModel):
    """Bin `i` counts values from `edges[i]` to below `edges[i + 1]`."""

    edges: list[float]
    counts: list[int]


class PsnrFigures(BaseModel):
    """Over the images that were measured."""

    mean: float | None
    min: float | None
    measured: int


class QualityFigures(BaseModel):
    """Images of one quality."""

    quality: int | None
    images: int


class LabelFigures(BaseModel):
    """Images of one label."""

    label: str | None = Field(description="null: those without a label")
    images: int
    bytes_mean: float
    psnr_mean_db: float | None
    psnr_min_db: float | None
    lossless: int


class Stats(BaseModel):
    """Figures of the whole archive."""

    state: str
    archive: dict[str, Any] = Field(description="As `tsae info --json`, with a name in place of the path")
    images: int
    bytes: int
    lossless: int
    psnr_db: PsnrFigures
    psnr_histogram: Histogram
    bytes_histogram: Histogram
    qualities: list[QualityFigures]
    labels_total: int
    labels: list[LabelFigures] = Field(description="Those with most images, at most 1,000")
    damaged_shards: list[str] = Field(description="What could not be read when this state was opened; its images are left out")


class ProblemDetails(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str


class BatchRequest(BaseModel):
    """Which images, and how."""

    model_config = ConfigDict(extra="forbid", strict=True)

    keys: list[str] = Field(min_length=1, description="One that comes twice counts once")
    format: Literal["png", "webp", "npy", "latents"] = "png"
    size: Annotated[int | None, BeforeValidator(_whole)] = Field(
        default=None, ge=1, le=1024, description="Side to scale to, in px; for png and webp"
    )


class Health(BaseModel):
    """How the server is."""

    status: str


class Readiness(BaseModel):
    """Whether the server can answer."""

    status: str
    state: str | None
    images: int | None
    damaged_shards: int | None
