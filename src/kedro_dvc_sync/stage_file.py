"""Edit `dvc.yaml` as text: replace the lines of the generated stages, and keep every other line.

Edits are by line, because ruamel.yaml (which DVC uses) attaches a comment to the value before it, and removes both
together.
"""

import difflib
from collections.abc import Iterable
from typing import Any

import yaml

from kedro_dvc_sync.errors import StageError
from kedro_dvc_sync.stages import MANAGED_KEYS, Stage, command

HEADER = (
    "# Stages written by `kedro dvc sync` from the pipelines and the catalog. Everything else in this file is kept.\n"
)

Edit = tuple[int, int, list[str]]
"""First line, line after the last one, and the new lines."""


def merge_stages(text: str | None, stages: Iterable[Stage], environment: str | None, name: str = "dvc.yaml") -> str:
    """Return `text` with the managed keys of `stages` updated.

    Kept are comments outside these keys, top-level keys, hand-written stages, and keys of a stage that are not managed
    (`desc`, `frozen`, `meta`, `always_changed`). A stage is hand-written if its command is not the generated one. A
    stage with the generated command whose pipeline is no longer a stage is removed.

    Args:
        text: content of the file; None where there is no file.
        stages: the stages built from the pipelines.
        environment: environment of the file.
        name: name of the file, for messages.

    Raises:
        StageError: the text is not a DVC file.
    """
    lines = (text or HEADER).splitlines()
    content, root = _parse(text or "", name)
    old: dict[str, Any] = content.get("stages") or {}
    wanted = {stage.name: stage.written() for stage in stages}
    gone = {key for key, stage in old.items() if key not in wanted and _is_ours(key, stage, environment)}
    new = {key: _merge_stage(old.get(key), wanted[key]) for key in wanted if key not in old}
    found = [pair for pair in (root.value if root is not None else []) if pair[0].value == "stages"]
    if not old or found[0][1].flow_style:
        # No line of a stage has to be kept, so write all of `stages`.
        start = found[0][0].start_mark.line if found else len(lines)
        end = _last_line(found[0][1]) + 1 if found else len(lines)
        kept = {key: _merge_stage(stage, wanted.get(key)) for key, stage in old.items() if key not in gone}
        return _splice(lines, [(start, end, _block({"stages": {**kept, **new}}, 0))])
    edits: list[Edit] = []
    for key_node, node in found[0][1].value:
        key, whole = key_node.value, (key_node.start_mark.line, _last_line(node) + 1)
        if key in gone:
            edits.append((*whole, []))
        elif key in wanted and isinstance(node, yaml.MappingNode) and not node.flow_style:
            edits += _key_edits(node, old[key], wanted[key])
        elif key in wanted and _merge_stage(old[key], wanted[key]) != old[key]:
            edits.append((*whole, _block({key: _merge_stage(old[key], wanted[key])}, key_node.start_mark.column)))
    end, indent = _last_line(found[0][1]) + 1, found[0][1].start_mark.column
    return _splice(lines, [*edits, (end, end, _block(new, indent) if new else [])])


def difference(old: str | None, new: str, name: str = "dvc.yaml") -> str:
    """Return an empty string where both have the same content, else a unified diff."""
    if old is not None and _parse(old, name)[0] == _parse(new, name)[0]:
        return ""
    before = [] if old is None else old.splitlines(keepends=True)
    return "".join(
        difflib.unified_diff(before, new.splitlines(keepends=True), f"{name} (current)", f"{name} (generated)")
    )


def _is_ours(name: str, stage: Any, environment: str | None) -> bool:
    return isinstance(stage, dict) and stage.get("cmd") == command(name, environment)


def _merge_stage(old: Any, written: dict[str, Any] | None) -> Any:
    """Return a stage with its managed keys replaced by `written`; None leaves it unchanged."""
    if written is None:
        return old
    rest = {key: value for key, value in old.items() if key not in MANAGED_KEYS} if isinstance(old, dict) else {}
    return {**written, **rest}


def _key_edits(node: yaml.MappingNode, old: dict[str, Any], written: dict[str, Any]) -> list[Edit]:
    """Return the edits to the managed keys of one stage; a new key is inserted after the managed key before it."""
    edits: list[Edit] = []
    places = {key.value: (key.start_mark.line, _last_line(value) + 1) for key, value in node.value}
    indent, at = node.start_mark.column, node.start_mark.line
    for key in MANAGED_KEYS:
        block = _block({key: written[key]}, indent) if key in written else []
        if key not in old:
            edits.append((at, at, block))
            continue
        if old[key] != written.get(key):
            edits.append((*places[key], block))
        at = places[key][1]
    return edits


def _splice(lines: list[str], edits: list[Edit]) -> str:
    """Return `lines` with the lines of each edit replaced; blocks for the same place keep their order."""
    result: list[str] = []
    done = 0
    for start, end, block in sorted(edits, key=lambda edit: edit[:2]):
        result += [*lines[done:start], *block]
        done = end
    return "\n".join([*result, *lines[done:], ""])


def _parse(text: str, name: str) -> tuple[dict[str, Any], Any]:
    try:
        content, root = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise StageError(f"{name}: not YAML ({' '.join(str(error).split())})") from None
    content = {} if content is None else content
    if not isinstance(content, dict) or not isinstance(content.get("stages") or {}, dict):
        raise StageError(f"{name}: not a DVC file; `stages` must be a mapping")
    return content, root


def _last_line(node: yaml.Node) -> int:
    """Return the last line of a node, without the comments and empty lines after it."""
    if isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    end, start = node.end_mark, node.start_mark
    return int(end.line if end.column or end.line == start.line else end.line - 1)


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists below their key, as DVC does."""
        super().increase_indent(flow, False)


def _block(content: dict[str, Any], indent: int) -> list[str]:
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=4096, allow_unicode=True)
    return [" " * indent + line for line in text.splitlines()]
