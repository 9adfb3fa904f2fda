"""Where a model comes from: the data and their health, and the chain from source to registered version."""

from collections.abc import Sequence
from dataclasses import dataclass

from clips_pipeline.reports.page import bdi, table, text


@dataclass(frozen=True)
class Link:
    """Something to look further at: what it is, its address on the web or None, and what to do where there is none."""

    what: str
    address: str | None
    otherwise: str = ""


@dataclass(frozen=True)
class Step:
    """One step of the chain: what it is, and the digest or name by which it is known."""

    what: str
    value: str


def data_health(summary: str, links: Sequence[Link]) -> str:
    """HTML of the section.

    Args:
        summary: HTML, that of the data health report.
        links: to the whole of it.
    """
    return f"{summary}{links_list(links)}"


def lineage(steps: Sequence[Step], links: Sequence[Link], command: str) -> str:
    """HTML of the section.

    Args:
        steps: from the data to the version.
        links: to the run and the version.
        command: that prints everything.
    """
    rows = [[text(step.what), f"<code>{text(step.value)}</code>"] for step in steps]
    return (
        f"{links_list(links)}"
        + table(["what", "known by"], rows, "From the data to the registered version", foreign=(1,))
        + f"<p>Everything that went into it, with hashes: <code>{text(command)}</code></p>"
    )


def links_list(links: Sequence[Link]) -> str:
    """HTML; only web addresses become links."""
    items = []
    for link in links:
        ours = link.address is not None and link.address.startswith(("http://", "https://"))
        name = f'<a href="{text(link.address)}">{bdi(link.what)}</a>' if ours else bdi(link.what)
        items.append(f"<li>{name}{f': {text(link.otherwise)}' if link.otherwise else ''}</li>")
    return f"<ul>{''.join(items)}</ul>"
