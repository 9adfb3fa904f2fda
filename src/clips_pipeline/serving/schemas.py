"""Bodies of requests and answers, which the OpenAPI description shows."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field

Base64 = Annotated[str, Field(description="base64 of a JPEG, PNG or WebP file", min_length=1)]

Base64List = Annotated[list[Base64], FailFast()]
"""Ends at the first error, so that a long list of wrong items costs no memory."""

TextList = Annotated[list[str], FailFast()]


class Body(BaseModel):
    """A JSON body; unknown keys and other types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _with_example(**example: Any) -> ConfigDict:
    return ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": example})


class Images(Body):
    """Images to embed."""

    model_config = _with_example(images=["iVBORw0KGgo…"])

    images: Base64List = Field(min_length=1)


class Texts(Body):
    """Texts to embed."""

    model_config = _with_example(texts=["a red square", "a blue circle"])

    texts: TextList = Field(min_length=1, description="a text longer than the model's context is truncated")


class Pairs(Body):
    """Images and texts to compare."""

    model_config = _with_example(images=["iVBORw0KGgo…"], texts=["a red square"])

    images: Base64List = Field(min_length=1)
    texts: TextList = Field(min_length=1)


class ToCaption(Body):
    """Images to caption."""

    model_config = _with_example(images=["iVBORw0KGgo…"], web_captions=["holiday"])

    images: Base64List = Field(min_length=1)
    web_captions: Annotated[
        TextList,
        Field(description="text that came with each image, such as a title; read by captioners of method clips"),
    ] = []


class Query(Body):
    """Queries to search the index with: images and texts, in this order."""

    model_config = _with_example(texts=["a red square"], k=3, kind="image")

    images: Base64List = []
    texts: TextList = []
    k: Annotated[int, Field(ge=1, description="results of each query")] = 10
    kind: Annotated[Literal["image", "text"] | None, Field(description="only rows of this kind")] = None
    pictures: Annotated[
        bool, Field(description="with a small picture of each neighbor, if the server was started with --pictures")
    ] = False


class ItemError(BaseModel):
    """Why one item of a request has no result; the others have theirs."""

    field: Literal["images", "texts"]
    item: int = Field(description="position in the list of the request, from 0")
    reason: str
    message: str


class Embeddings(BaseModel):
    """One embedding of length one for each item; null where `errors` says why not."""

    model: str = Field(description="digest of the model")
    embeddings: list[list[float] | None]
    errors: list[ItemError]


class Similarities(BaseModel):
    """Cosine similarities: one row for each image, one column for each text; null where there is none."""

    model: str
    similarity: list[list[float | None]]
    errors: list[ItemError]


class Captions(BaseModel):
    """One caption for each image; null where `errors` says why not."""

    model: str
    captions: list[str | None]
    errors: list[ItemError]


class Neighbor(BaseModel):
    """One row of the index."""

    key: str
    kind: str
    score: float = Field(description="cosine similarity")
    text: str | None = Field(description="caption of a text row")
    picture: str | None = Field(
        description="base64 of a small WebP file; null if it was not asked for or cannot be read"
    )


class Neighbors(BaseModel):
    """The nearest rows of each query, best first; null where `errors` says why not."""

    model: str
    neighbors: list[list[Neighbor] | None]
    errors: list[ItemError]


class ErrorFacts(BaseModel):
    """Why a request was refused."""

    reason: str
    message: str


class ErrorAnswer(BaseModel):
    """A request that was refused."""

    error: ErrorFacts
    errors: list[ItemError] = []


class Health(BaseModel):
    """State of the server."""

    status: Literal["ok", "stuck"]


def body_of(model: type[Body], *, raw_image: bool = False) -> dict[str, Any]:
    """Return the OpenAPI description of a request body, which the app reads by itself."""
    content: dict[str, Any] = {"application/json": {"schema": model.model_json_schema()}}
    if raw_image:
        binary = {"schema": {"type": "string", "format": "binary"}}
        content |= dict.fromkeys(("image/jpeg", "image/png", "image/webp"), binary)
    return {"requestBody": {"required": True, "content": content}}
