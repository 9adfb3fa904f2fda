"""What MLflow knows about a registered version, for the README of its export."""

from collections.abc import Mapping
from typing import Any, Final

from clips_pipeline.config import ConfigError
from clips_pipeline.interop.export.readme import Provenance
from clips_pipeline.registry.lineage.tags import load_record
from clips_pipeline.registry.versions.model_card import load_card

_SOURCES: Final = {
    "scenes": "embedded data of clips-pipeline (rendered scenes): Apache-2.0, like the code",
    "recaption": "shards with tables of synthetic captions (Recap-DataComp-1B's captions are CC-BY-4.0); the images belong to "
    "their owners",
    "img2dataset": "shards of img2dataset: the images and captions belong to their owners",
    "parquet": "Parquet files with images: the images and captions belong to their owners",
    "folder": "a folder of images and captions, whose license the project does not know",
    "clip_benchmark": "a set in the layout of CLIP_benchmark, whose license the project does not know",
}


def provenance_of(uri: str) -> Provenance:
    """Return the card of a version and the license of its data. A run, or a version of another program, has neither.

    Args:
        uri: `models:/NAME/VERSION`, `models:/NAME@ALIAS` or `runs:/ID/PATH`.
    """
    scheme, _, rest = uri.partition(":/")
    if scheme != "models":
        return Provenance()
    name, separator, version = rest.rpartition("@" if "@" in rest else "/")
    if not separator:
        return Provenance()
    try:
        parameters = load_record(name, version).lineage.parameters
    except ConfigError:
        # A version without lineage; that it exists was checked when its model was fetched.
        parameters = {}
    return Provenance(card=load_card(uri), data=data_license(parameters))


def data_license(parameters: Mapping[str, Any]) -> str | None:
    """Return what is known about the license of the training data, or None.

    Args:
        parameters: nested parameters of all stages, as in a version's lineage.
    """
    found: Any = parameters
    for key in ("prepare", "source", "kind"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return _SOURCES.get(found) if isinstance(found, str) else None
