"""The app: endpoints over `inference.Inference`. Limits on bodies and time are in `gate`."""

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import numpy as np
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from clips_pipeline import __version__
from clips_pipeline.embeddings.index import Hit
from clips_pipeline.evaluation.inference.checked_inputs import RefusedInputError
from clips_pipeline.serving import pages, schemas
from clips_pipeline.serving.config import Access, ServeConfig
from clips_pipeline.serving.errors import ApiError, error_response
from clips_pipeline.serving.gate import Gate
from clips_pipeline.serving.inference import Embedding, Inference
from clips_pipeline.serving.metrics import Metrics
from clips_pipeline.serving.neighbors import thumbnails

B = TypeVar("B", bound=schemas.Body)

_MAX_JSON_ITEMS = 500_000
_DIGITS = 9
_MAX_PICTURES = 50
_ERRORS_SHOWN = 3
_KEY_SHOWN = 80  # characters of a key of the client
_IMAGE_TYPES = frozenset(("image/jpeg", "image/png", "image/webp", "application/octet-stream"))


def make_app(inference: Inference, config: ServeConfig, access: Access) -> ASGIApp:
    """Return the app with its middleware.

    Args:
        inference: the model; started and closed with the app.
        config: limits and timeouts.
        access: who may use the server.
    """
    rows = 0 if inference.neighbors is None else len(inference.neighbors)
    metrics = Metrics(lambda: inference.queue.items, inference.digest[:12], rows)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        inference.start(metrics)
        yield
        await inference.close()

    app = FastAPI(
        title="clips-pipeline",
        version=__version__,
        description="Embeddings, similarities, captions and search with a trained model.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from another host
        redoc_url=None,
        responses={status: {"model": schemas.ErrorAnswer} for status in (400, 401, 413, 422, 503)},
    )
    app.include_router(_Endpoints(inference, config).router)
    app.include_router(_pages_router(app, inference, metrics, access))

    @app.exception_handler(ApiError)
    async def refuse(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def refuse_http(request: Request, error: HTTPException) -> JSONResponse:
        reasons = {
            404: ("not_found", "no such address; /docs shows what there is"),
            405: ("method", f"use the method {(error.headers or {}).get('Allow', 'that /docs shows')}"),
        }
        reason, message = reasons.get(error.status_code, ("refused", str(error.detail)))
        return error_response(error.status_code, reason, message, dict(error.headers or {}))

    return Gate(app, config, access, metrics)


class _Endpoints:
    """The endpoints that use the model."""

    def __init__(self, inference: Inference, config: ServeConfig) -> None:
        self._inference, self._config = inference, config
        self.router = APIRouter()
        for path, endpoint, body, raw_image in (
            ("/embed/image", self.embed_image, schemas.Images, True),
            ("/embed/text", self.embed_text, schemas.Texts, False),
            ("/similarity", self.similarity, schemas.Pairs, False),
            ("/caption", self.caption, schemas.ToCaption, True),
            ("/search", self.search, schemas.Query, True),
        ):
            self.router.add_api_route(
                path, endpoint, methods=["POST"], openapi_extra=schemas.body_of(body, raw_image=raw_image)
            )

    async def embed_image(self, request: Request) -> schemas.Embeddings:
        """Embed images: a JSON list of base64, or one image file as the body."""
        raw = await self._raw_image(request)
        images: Sequence[bytes | str] = (
            [raw] if raw is not None else (await self._parse(request, schemas.Images)).images
        )
        self._check_count("images", len(images))
        with self._inference.admitted(len(images)):
            found = await self._inference.embed_images(images)
        return schemas.Embeddings(
            model=self._inference.digest, embeddings=_values(found, _numbers), errors=_errors("images", found)
        )

    async def embed_text(self, request: Request) -> schemas.Embeddings:
        """Embed texts."""
        texts = (await self._parse(request, schemas.Texts)).texts
        self._check_count("texts", len(texts))
        with self._inference.admitted(len(texts)):
            found = await self._inference.embed_texts(texts)
        return schemas.Embeddings(
            model=self._inference.digest, embeddings=_values(found, _numbers), errors=_errors("texts", found)
        )

    async def similarity(self, request: Request) -> schemas.Similarities:
        """Compare each image with each text."""
        body = await self._parse(request, schemas.Pairs)
        images, texts = await self._embed_both(body.images, body.texts)
        rows = [
            [
                None
                if isinstance(one, RefusedInputError) or isinstance(other, RefusedInputError)
                else float(one @ other)
                for other in texts
            ]
            for one in images
        ]
        errors = _errors("images", images, fail=False) + _errors("texts", texts, fail=False)
        if all(value is None for row in rows for value in row):
            raise _AllRefusedError(errors)
        return schemas.Similarities(model=self._inference.digest, similarity=rows, errors=errors)

    async def caption(self, request: Request) -> schemas.Captions:
        """Write a caption for each image: a JSON list of base64, or one image file as the body."""
        raw = await self._raw_image(request)
        images: Sequence[bytes | str] = [raw] if raw is not None else []
        web_captions: Sequence[str] = []
        if raw is None:
            body = await self._parse(request, schemas.ToCaption)
            images, web_captions = body.images, body.web_captions
        self._check_count("images", len(images))
        web_captions = web_captions or [""] * len(images)
        if len(web_captions) != len(images):
            raise ApiError(
                422,
                "invalid",
                f"web_captions: {len(web_captions)} for {len(images)} images; give one for each, or none",
            )
        with self._inference.admitted(len(images)):
            found = await self._inference.caption(images, web_captions)
        return schemas.Captions(
            model=self._inference.digest, captions=_values(found, str), errors=_errors("images", found)
        )

    async def search(self, request: Request) -> schemas.Neighbors:
        """Search the index: a JSON object with images and texts, or one image file as the body."""
        neighbors = self._inference.neighbors
        if neighbors is None:
            raise ApiError(404, "no_index", "this server has no index; start it with --index FILE")
        raw = await self._raw_image(request)
        body = schemas.Query() if raw is not None else await self._parse(request, schemas.Query)
        if body.k > self._config.max_results:
            raise ApiError(422, "invalid", f"k: {body.k}; at most {self._config.max_results}")
        if body.pictures and not neighbors.pictures:
            raise ApiError(404, "no_pictures", "this server shows no pictures; start it with --pictures")
        images: Sequence[bytes | str] = [raw] if raw is not None else body.images
        if body.pictures and body.k * (len(images) + len(body.texts)) > _MAX_PICTURES:
            raise ApiError(422, "invalid", f"pictures: at most {_MAX_PICTURES} in one request; lower k")
        if not images and not body.texts:
            raise ApiError(422, "invalid", "images and texts are empty; give a query")
        found = [*(await self._embed_both(images, body.texts))]
        outcomes = [*found[0], *found[1]]
        errors = _errors("images", found[0], fail=False) + _errors("texts", found[1], fail=False)
        good = [one for one in outcomes if not isinstance(one, RefusedInputError)]
        if not good:
            raise _AllRefusedError(errors)
        hits = await self._inference.in_thread(lambda: neighbors.search(np.stack(good), body.k, body.kind))
        pictures: list[list[str | None]] = [[None] * len(row) for row in hits]
        if body.pictures:
            pictures = await self._inference.in_thread(lambda: thumbnails(hits))
        answers = iter(zip(hits, pictures, strict=True))
        rows = [None if isinstance(one, RefusedInputError) else _neighbors(*next(answers)) for one in outcomes]
        return schemas.Neighbors(model=self._inference.digest, neighbors=rows, errors=errors)

    async def _embed_both(
        self, images: Sequence[bytes | str], texts: Sequence[str]
    ) -> tuple[list[Embedding | RefusedInputError], list[Embedding | RefusedInputError]]:
        self._check_count("images and texts", len(images) + len(texts))
        with self._inference.admitted(len(images) + len(texts)):
            return await self._inference.embed_images(images), await self._inference.embed_texts(texts)

    def _check_count(self, what: str, count: int) -> None:
        if count > self._config.max_items:
            raise ApiError(
                413, "too_many_items", f"{count} {what}; at most {self._config.max_items} in one request, send several"
            )

    async def _raw_image(self, request: Request) -> bytes | None:
        """Return the body if it is an image file, None if it is JSON."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in _IMAGE_TYPES:
            return None
        body = await request.body()
        if not body:
            raise ApiError(422, "undecodable_image", "the body is empty; send an image file")
        return body

    async def _parse(self, request: Request, kind: type[B]) -> B:
        """Return the checked JSON body.

        Raises:
            ApiError: it is not JSON, or not of this kind.
        """
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise ApiError(
                415, "content_type", "send Content-Type: application/json, or an image where one is accepted"
            )
        body = await request.body()
        # Every element of a list takes memory, whatever it is.
        if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_JSON_ITEMS:
            raise ApiError(413, "too_many_items", f"the body has more than {_MAX_JSON_ITEMS} commas and brackets")
        try:
            if len(body) < 2**16:
                return kind.model_validate_json(body)
            return await self._inference.in_thread(lambda: kind.model_validate_json(body))
        except ValidationError as error:
            raise _invalid(error) from None


class _AllRefusedError(ApiError):
    """No item of a request has a result; the first error is that of the request."""

    def __init__(self, errors: Sequence[schemas.ItemError]) -> None:
        first = errors[0]
        super().__init__(422, first.reason, f"{first.field}[{first.item}]: {first.message}")
        self.errors = errors

    def response(self) -> JSONResponse:
        """Return the answer, with the errors of all items."""
        facts = {"reason": self.reason, "message": self.message}
        return JSONResponse({"error": facts, "errors": [error.model_dump() for error in self.errors]}, self.status)


def _neighbors(hits: Sequence[Hit], pictures: Sequence[str | None]) -> list[schemas.Neighbor]:
    return [
        schemas.Neighbor(key=hit.key, kind=hit.kind, score=hit.score, text=hit.text, picture=picture)
        for hit, picture in zip(hits, pictures, strict=True)
    ]


def _numbers(vector: Embedding) -> list[float]:
    """Return the numbers of an embedding, rounded to what float32 holds: half as many digits."""
    numbers: list[float] = vector.astype(np.float64).round(_DIGITS).tolist()
    return numbers


def _values(found: Sequence[Any], convert: Callable[[Any], Any]) -> list[Any]:
    return [None if isinstance(one, RefusedInputError) else convert(one) for one in found]


def _errors(field: Any, found: Sequence[Any], *, fail: bool = True) -> list[schemas.ItemError]:
    errors = [
        schemas.ItemError(field=field, item=number, reason=one.reason, message=str(one))
        for number, one in enumerate(found)
        if isinstance(one, RefusedInputError)
    ]
    if fail and len(errors) == len(found):
        raise _AllRefusedError(errors)
    return errors


def _invalid(error: ValidationError) -> ApiError:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return ApiError(400, "no_json", f"the body is not JSON ({found[0]['msg']})")
    lines = [
        f"{'.'.join(str(part)[:_KEY_SHOWN] for part in one['loc']) or 'body'}: {one['msg']}"
        for one in found[:_ERRORS_SHOWN]
    ]
    more = f"; and {len(found) - _ERRORS_SHOWN} more" if len(found) > _ERRORS_SHOWN else ""
    return ApiError(422, "invalid", "; ".join(lines) + more)


def _pages_router(app: FastAPI, inference: Inference, metrics: Metrics, access: Access) -> APIRouter:
    """Return the pages, and what operators read."""
    router = APIRouter()
    start = pages.start_page(
        can_caption=inference.can_caption,
        can_search=inference.neighbors is not None,
        with_pictures=inference.neighbors is not None and inference.neighbors.pictures,
        needs_token=access.token is not None,
    )

    @router.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return start.response()

    # Made at the first request, when the app has all its endpoints.
    description = functools.cache(lambda: pages.docs_page(app.openapi()))

    @router.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return description().response()

    @router.get("/healthz")
    async def health(response: Response) -> schemas.Health:
        """Say whether the server answers; status 503 if the model has worked on one batch for two minutes."""
        stuck = inference.is_stuck()
        response.status_code = 503 if stuck else 200
        return schemas.Health(status="stuck" if stuck else "ok")

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def show_metrics() -> Response:
        """Return the metrics for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
