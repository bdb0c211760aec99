"""The routes: HTTP's words to the service's and back. FastAPI makes the OpenAPI description from them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from tsae import __version__
from tsae.serve import http, schemas
from tsae.serve.description import describe_html
from tsae.serve.downloads import batch, find_all, new_stream
from tsae.serve.http import Answer, Asked
from tsae.serve.metrics import CONTENT_TYPE, Metrics
from tsae.serve.originals import original
from tsae.serve.pictures import LATENTS, MEDIA_TYPES, Form, image_form
from tsae.serve.problems import MEDIA_TYPE, Problem
from tsae.serve.queries import Selected
from tsae.serve.service import Service
from tsae.serve.sheets import sheet
from tsae.serve.streams import MEDIA_TYPES as STREAM_TYPES

WEB_PATHS = (
    "/",
    "/archive.json",
    "/page/{name:path}",
    *(f"/{kind}/{{name}}" for kind in ("model", "facts", "keys", "streams")),
)
"""Of the page, and of what it reads."""

router = APIRouter()


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Answers that are problems, for the description."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    return {status: {"description": "Problem details", "content": content} for status in (*statuses, 401, 500, 503)}


def _binary(*media_types: str) -> dict[str, Any]:
    schema = {"type": "string", "format": "binary"}
    return {"description": "The file", "content": {media_type: {"schema": schema} for media_type in media_types}}


UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "What `If-None-Match` names is still right"}}

PROMETHEUS = {"description": "Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}}

Key = Annotated[str, Path(description="Percent-encoded; `/` may stay, and `%2F` means the same")]
Version = Annotated[str | None, Query(description="Of the image; the answer never changes then. 404 if it is another one")]
Size = Annotated[int | None, Query(ge=1, le=1024, description="Side to scale to, in px (bicubic)")]


def service_of(request: Request) -> Service:
    """The service of the application."""
    service: Service = request.app.state.service
    return service


def asked_of(request: Request, *, is_negotiated: bool = False) -> Asked:
    """What of a request's headers counts."""
    headers = request.headers
    return Asked(headers.get("accept"), headers.get("accept-encoding"), headers.get("if-none-match"), is_negotiated)


def respond(answer: Answer) -> Response:
    """An answer in the framework's words."""
    return Response(answer.body, answer.status, answer.headers)


@router.get(
    "/images/{key:path}",
    response_class=Response,
    responses={200: _binary("image/png", "image/webp", MEDIA_TYPES["npy"]), **UNCHANGED, **_problems(404, 406, 422)},
    summary="A decoded image",
)
async def get_image(
    request: Request,
    key: Key,
    size: Size = None,
    format: Annotated[
        Literal["png", "webp", "npy"] | None, Query(description="In place of `Accept`; npy is uint8 `[32, 32, 3]`")
    ] = None,
    v: Version = None,
) -> Response:
    """Lossless in either format: PNG, unless `Accept` prefers WebP. Strong `ETag`s; immutable with `v`."""
    service, asked = service_of(request), asked_of(request, is_negotiated=format is None)
    name = service.choose_format(format, asked.accept)
    form = image_form(name, size)
    found = http.key_in_path(request.scope["raw_path"], b"/images/")
    return respond(await service.file(found, form, MEDIA_TYPES[name], v, asked))


@router.get(
    "/latents/{key:path}",
    response_class=Response,
    responses={200: _binary(MEDIA_TYPES["npy"]), **UNCHANGED, **_problems(404, 422)},
    summary="The stored integers of an image",
)
async def get_latents(request: Request, key: Key, v: Version = None) -> Response:
    """An npy file `[C, H, W]`: int8 for `seed-8x8x8`, int16 for `tsae`."""
    found = http.key_in_path(request.scope["raw_path"], b"/latents/")
    answer = await service_of(request).file(found, Form(LATENTS), MEDIA_TYPES["npy"], v, asked_of(request))
    return respond(answer)


@router.get(
    "/originals/{key:path}",
    response_class=Response,
    responses={200: _binary("image/png", "image/webp"), **UNCHANGED, **_problems(404, 406, 422)},
    summary="What was compressed",
)
async def get_original(
    request: Request,
    key: Key,
    size: Annotated[
        int | None, Query(ge=0, le=1024, description="As for images; 0: as it was before, at most 1,024 px a side")
    ] = None,
    format: Annotated[Literal["png", "webp"] | None, Query(description="In place of `Accept`")] = None,
) -> Response:
    """As it was encoded, that is scaled to 32x32, unless `size` says otherwise. 404 without `--originals`, or if it is gone."""
    service, asked = service_of(request), asked_of(request, is_negotiated=format is None)
    name = service.choose_format(format, asked.accept)
    found = http.key_in_path(request.scope["raw_path"], b"/originals/")
    return respond(await original(service, found, name, size, asked))


@router.get(
    "/images",
    response_class=Response,
    responses={200: {"model": schemas.ImagePage}, **UNCHANGED, **_problems(404, 422)},
    summary="A page of records",
)
async def get_page(
    request: Request,
    selected: Selected,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(description="`next` of the page before")] = None,
) -> Response:
    """What all filters let through, in an order. 404 if `after` is no key, unless `sort=key`."""
    wanted = dataclasses.replace(selected, after=after, limit=limit)
    return respond(await service_of(request).page(wanted, asked_of(request)))


@router.get(
    "/stats",
    response_class=Response,
    responses={200: {"model": schemas.Stats}, **UNCHANGED, **_problems()},
    summary="Figures",
)
async def get_stats(request: Request) -> Response:
    """Totals, histograms of PSNR and bytes, figures of each label."""
    return respond(await service_of(request).stats(asked_of(request)))


@router.get(
    "/sheet",
    response_class=Response,
    responses={200: _binary("image/png"), **UNCHANGED, **_problems(404, 422)},
    summary="A contact sheet",
)
async def get_sheet(
    request: Request,
    selected: Selected,
    limit: Annotated[int, Query(ge=1, le=200)] = 48,
    columns: Annotated[int, Query(ge=1, le=40)] = 12,
    scale: Annotated[int, Query(ge=1, le=8)] = 2,
    originals: Annotated[bool, Query(description="Whether they are above, and PSNR is measured anew")] = False,
) -> Response:
    """The images that `/images` would tell of first, with PSNR and bytes."""
    wanted = dataclasses.replace(selected, limit=limit)
    return respond(await sheet(service_of(request), wanted, originals, columns, scale, asked_of(request)))


BATCH_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": schemas.BatchRequest.model_json_schema()}},
    }
}


@router.post(
    "/batch",
    response_class=Response,
    responses={200: _binary(*STREAM_TYPES), **_problems(400, 406, 413, 422)},
    openapi_extra=BATCH_BODY,
    summary="Many images as a stream",
)
async def post_batch(request: Request) -> Response:
    """A ZIP file, or with `Accept: multipart/mixed` parts; what could not be had is in its last file, `.tsae/errors.json`."""
    service = service_of(request)
    media_type = http.choose_media_type(request.headers.get("accept"), list(STREAM_TYPES))
    if media_type is None:
        raise Problem("not-acceptable", f"offered are {', '.join(STREAM_TYPES)}")
    wanted = _parse_batch(await request.body())
    most = service.options.limits.batch_keys
    if len(wanted.keys) > most:
        raise Problem("too-large", f"{len(wanted.keys):,} keys, at most {most:,} are taken")
    stream = new_stream(media_type)
    form = image_form(wanted.format, wanted.size)

    async def pieces() -> AsyncIterator[bytes]:
        with service.state().used() as state:
            rows = await asyncio.to_thread(find_all, state, wanted.keys)
            async with contextlib.aclosing(batch(service, state, rows, form, stream)) as parts:
                async for part in parts:
                    yield part

    service.state()  # refuses before an answer begins
    return StreamingResponse(pieces(), media_type=stream.media_type, headers={"cache-control": "no-store"})


def _parse_batch(body: bytes) -> schemas.BatchRequest:
    try:
        return schemas.BatchRequest.model_validate_json(body)
    except ValidationError as error:
        raise Problem("invalid", _first_fault(error.errors())) from error


def _first_fault(errors: Any) -> str:
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"]) or "body"
    return f"{place}: {first['msg']}"[:300]


@router.get(
    "/healthz",
    response_class=Response,
    responses={200: {"model": schemas.Health}},
    summary="Whether the process lives",
)
async def get_health() -> Response:
    """Always, while it does."""
    return JSONResponse({"status": "ok"}, headers={"cache-control": "no-store"})


@router.get(
    "/readyz",
    response_class=Response,
    responses={200: {"model": schemas.Readiness}, 503: _problems()[503]},
    summary="Whether requests can be answered",
)
async def get_readiness(request: Request) -> Response:
    """503 while the archive is being opened, and once it is gone or its manifest damaged."""
    service = service_of(request)
    state = service.state()
    if service.follower.fault is not None:
        raise Problem("unavailable", service.follower.fault)
    facts = {"status": "ok", "state": state.digest, "images": len(state.index), "damaged_shards": len(state.index.damages)}
    return JSONResponse(facts, headers={"cache-control": "no-store"})


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: PROMETHEUS, **_problems()},
    summary="For Prometheus",
)
async def get_metrics(request: Request) -> Response:
    """Requests, seconds, caches, decoder, archive."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.text(), headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"})


@router.get("/docs", include_in_schema=False)
async def get_docs(request: Request) -> Response:
    """The description for people: no script, nothing from elsewhere."""
    return HTMLResponse(describe_html(request.app.openapi()))


async def get_web_file(request: Request) -> Response:
    """The page, and what it reads."""
    name = request.scope["path"].removeprefix("/")
    return respond(await service_of(request).web_file(name, request.headers.get("range"), asked_of(request)))


def make_app(service: Service) -> FastAPI:
    """The application of a service, without what `tsae.serve.gate` adds."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="tsae serve",
        version=__version__,
        summary="Images of an archive, decoded on demand",
        description="Every GET can be HEAD. Errors are `application/problem+json` (RFC 9457).",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.service, app.state.metrics = service, Metrics(service)
    app.include_router(router)
    for path in WEB_PATHS:
        app.add_api_route(path, get_web_file, include_in_schema=False)
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    _complete_description(app, service)
    return app


def with_cors(app: Any, origins: Sequence[str]) -> Any:
    """The same for browsers on pages of other origins; outermost, as they ask without a token first, and see errors too."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["authorization", "content-type", "if-none-match"],
        expose_headers=["etag", "retry-after"],
    )


def _complete_description(app: FastAPI, service: Service) -> None:
    """Adds to the description what FastAPI cannot know: the token, the form of problems, and a key that there is."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        schema = make()
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {})["ProblemDetails"] = schemas.ProblemDetails.model_json_schema()
        if service.options.token is not None:
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"token": []}]
            for path in ("/healthz", "/readyz"):
                schema["paths"][path]["get"]["security"] = []
        state = service.follower.state
        if state is not None and len(state.index):
            key = state.index.key(state.index.row(0))
            for path in ("/images/{key}", "/latents/{key}", "/originals/{key}"):
                schema["paths"][path]["get"]["parameters"][0]["example"] = key
            schema["paths"]["/batch"]["post"]["requestBody"]["content"]["application/json"]["example"] = {"keys": [key]}
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def answer_problem(problem: Problem) -> Response:
    """A problem in the framework's words."""
    return Response(problem.body(), problem.status, problem.headers, MEDIA_TYPE)


async def _answer_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 - what it was registered for
    return answer_problem(error)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    return answer_problem(Problem("invalid", _first_fault(error.errors())))


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    names = {404: "no-such-route", 405: "method-not-allowed", 413: "too-large"}
    response = answer_problem(Problem(names.get(error.status_code, "bad-request"), str(error.detail)))
    response.headers.update(error.headers or {})
    return response
