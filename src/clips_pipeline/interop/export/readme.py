"""The README of an export: how to load it, the differences that were measured, and a model card."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from clips_pipeline import __version__
from clips_pipeline.interop.folder import LoadedModel
from clips_pipeline.io.redact import redact

README: Final = "README.md"
BEGINS: Final = "---\nlibrary_name: "
"""How the README of every export begins, and hardly any other."""

LICENSE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,59}")
"""Identifier of a license, as the hub writes it in the front matter of a README."""

_MARKDOWN = re.compile(r"[\s`|]+")


@dataclass(frozen=True)
class Provenance:
    """What is known about a model beside its files.

    Attributes:
        card: card of a registered version, with data, training and metrics; None if it is not registered.
        license: identifier of the license of the weights, as the hub writes it (`apache-2.0`); None if nobody has stated it.
        data: sentence on the license of the training data; None if the data is not known.
        origin: where imported weights came from, as in config.json.
    """

    card: str | None = None
    license: str | None = None
    data: str | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    def with_origin(self, origin: Mapping[str, Any]) -> "Provenance":
        """Return the same with the origin of imported weights, and with its license unless one was given."""
        # A config.json of others: no line breaks, and nothing that ends a cell or a code span.
        known = {
            str(key): redact(_MARKDOWN.sub(" ", str(value)))[:300] for key, value in origin.items() if value is not None
        }
        if "revision" not in known and "source" in known:
            # The path on this machine is nobody else's business.
            known["source"] = Path(known["source"]).name
        stated = str(known.get("license", ""))
        return replace(self, origin=known, license=self.license or (stated if LICENSE.fullmatch(stated) else None))


NOTHING_KNOWN: Final = Provenance()


def render(template: str, loaded: LoadedModel, provenance: Provenance, **values: Any) -> str:
    """Return the README.

    Args:
        template: name of the template of the form.
        loaded: the model.
        provenance: what is known beside its files.
        **values: what the template needs besides.
    """
    templates = Environment(
        loader=PackageLoader("clips_pipeline.interop", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  (Markdown)
    )
    return templates.get_template(template).render(
        model=loaded.model.config,
        tokenizer=loaded.tokenizer.kind,
        images=loaded.images,
        version=__version__,
        known=provenance,
        **values,
    )
