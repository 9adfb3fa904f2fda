"""The comparison of two runs: what differs, what is the same, and where their curves part. Pure: reads nothing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from clips_pipeline.registry.differences import rank
from clips_pipeline.registry.differences.run_facts import SPEED, Curve, RunFacts, default_parameters
from clips_pipeline.reports.model.run_comparison import SAME, Difference, Overlay, RunComparison, Section
from clips_pipeline.reports.page import format_number
from clips_pipeline.training.events.event_log import Event

ABSENT = "–"
_MAX_NAMED = 6
_APART = 0.01
"""Relative difference above which curves count as apart by more than rounding."""
_UNIMPORTANT_HARDWARE = ("host", "memory in GiB", "loader workers of a rank")
_NOT_COMPARED = (SPEED, "learning_rate")
BATCH_SIZE = "train.batch_size"
_SOURCE = "source of the package"
EXPLANATIONS = "docs/how-to/compare.md, “The same run gives other figures”, lists what is not recorded"


def compare_runs(a: RunFacts, b: RunFacts) -> RunComparison:
    """Compare two runs."""
    parameters = _parameters(a, b)
    data = _section("data", a.data, b.data, sorted)
    code = _code(a, b)
    versions = _section("versions", a.versions, b.versions, rank.sort_versions)
    hardware = _section("hardware", a.hardware, b.hardware, rank.sort_hardware)
    overlays = _overlays(a, b)
    return RunComparison(
        (a.name, b.name),
        (a.place, b.place),
        _verdict(a, b, parameters, (data, code, versions, hardware), overlays),
        (parameters, data, code, versions, hardware, *_evaluation(a, b), _results(overlays), _speed(a, b)),
        overlays,
        (history_lines(a.history), history_lines(b.history)),
    )


def parting_step(a: Curve, b: Curve) -> int | None:
    """Return the first step that both have logged with different values; None if there is none."""
    return next((step for step in sorted(a.keys() & b.keys()) if a[step] != b[step]), None)


def apart_from(a: Curve, b: Curve) -> int | None:
    """Return the common step from which on the curves differ by more than 1 % at every common step; None if there is none."""
    found = None
    for step in sorted(a.keys() & b.keys(), reverse=True):
        if abs(a[step] - b[step]) <= _APART * max(abs(a[step]), abs(b[step])):
            break
        found = step
    return found


def history_lines(history: Sequence[Event]) -> list[str]:
    """Return one line for each start, change and stop."""
    lines = []
    for event in history:
        moment = datetime.fromtimestamp(float(event.get("time", 0)), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        lines.append(f"{moment}  {_happened(event)}")
    return lines


def _happened(event: Event) -> str:
    kind = event["kind"]
    if kind == "start":
        hardware, source = event.get("hardware", {}), event.get("resumed_from")
        ranks = hardware.get("ranks")
        where = f"{ranks} rank{'' if ranks == 1 else 's'} on {hardware.get('device')}, {hardware.get('host')}"
        where = where if hardware else "where is not recorded"
        begun = f"resumed from {PurePath(source).name}" if source else "started"
        return f"{begun}: {where}; {event.get('steps')} steps of {event.get('batch_size')}"
    if kind == "changed":
        values = (f"{key} is {now}, was {before}" for key, (before, now) in event.get("values", {}).items())
        return f"changed from step {event.get('step')}: {', '.join(values)}"
    if kind == "end":
        return f"{'finished' if event.get('finished') else 'ended before its last step'} at step {event.get('step')}"
    details = {key: value for key, value in event.items() if key not in ("kind", "time")}
    return f"{kind}: {', '.join(f'{key} {value}' for key, value in details.items())}"


def _parameters(a: RunFacts, b: RunFacts) -> Section:
    defaults = default_parameters()
    first, second = (_with_defaults(side.parameters, defaults) for side in (a, b))
    groups = {key.partition(".")[0] for key in first} & {key.partition(".")[0] for key in second}
    keys = [key for key in first.keys() | second.keys() if key.partition(".")[0] in groups]
    found = []
    for key in rank.sort_parameters(keys):
        before, after = _value(first, key), _value(second, key)
        if before != after and not any(_is_opened(side, key) for side in (first, second)):
            default = f"default {_shown(defaults[key])}" if key in defaults else ""
            note = "; ".join(filter(None, (default, rank.NOTES[rank.effect(key)])))
            found.append(Difference(key, before, after, note))
    one_sided = {key.partition(".")[0] for key in first.keys() ^ second.keys()} - groups
    about = f"{len(keys) - len(found)} are the same" if keys else "not recorded for both"
    more = f"; recorded for one run only: {', '.join(sorted(one_sided))}" if one_sided else ""
    return Section("parameters", found, about + more)


def _with_defaults(parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with the defaults of a training, for runs whose record lacks what was not set."""
    trained = any(key.startswith("train.") for key in parameters)
    return {**defaults, **parameters} if trained else dict(parameters)


def _is_opened(side: Mapping[str, Any], key: str) -> bool:
    """Return whether a side has a group in place of the single value of the other, such as `ema: {…}` for `ema: null`."""
    return any(other.startswith(f"{key}.") for other in side)


def _value(side: Mapping[str, Any], key: str) -> str:
    return _shown(side[key]) if key in side else ABSENT


def _shown(value: Any) -> str:
    """Return a value as text; MLflow keeps texts only, so that numbers must give the same text as there."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return {"None": "null", "True": "true", "False": "false", "": "none"}.get(text, text)


def _section(
    title: str, a: Mapping[str, str], b: Mapping[str, str], order: Callable[[Iterable[str]], list[str]]
) -> Section:
    """Compare what both runs have recorded by name; a name that only one has differs if the other has others."""
    if not a or not b:
        return Section(title, (), _unknown(bool(a), bool(b)))
    keys = order(a.keys() | b.keys())
    found = [
        Difference(key, a.get(key, ABSENT), b.get(key, ABSENT))
        for key in keys
        if a.get(key, ABSENT) != b.get(key, ABSENT)
    ]
    return Section(title, found, "" if found else SAME)


def _unknown(a: bool, b: bool) -> str:
    return f"not recorded for {'A and B' if not a and not b else 'B' if a else 'A'}"


def _code(a: RunFacts, b: RunFacts) -> Section:
    section = _section("code", a.code, b.code, sorted)
    same_source = a.code.get(_SOURCE) is not None and a.code.get(_SOURCE) == b.code.get(_SOURCE)
    if same_source and section.differences:
        return Section("code", section.differences, "the source of the package is the same, so the same code trained")
    if same_source or not section.differences:
        return section
    if not a.code_files or not b.code_files:
        return Section("code", section.differences, "which files differ is not recorded")
    files = []
    for name in sorted(a.code_files.keys() | b.code_files.keys()):
        digests = [side.code_files.get(name, ABSENT) for side in (a, b)]
        if digests[0] != digests[1]:
            files.append(Difference(name, *digests))
    return Section("code", [*section.differences, *files], f"{len(files)} files of the package differ")


def _overlays(a: RunFacts, b: RunFacts) -> list[Overlay]:
    names, scale = rank.sort_curves(a.curves.keys() | b.curves.keys()), _samples_of_a_step(a, b)
    overlays = []
    for name in names:
        first, second = a.curves.get(name, {}), b.curves.get(name, {})
        parts_at = None if name == SPEED else parting_step(first, second)
        overlays.append(Overlay(name, first, second, parts_at, scale))
    return overlays


def _samples_of_a_step(a: RunFacts, b: RunFacts) -> tuple[int, int] | None:
    """Return the batch sizes of A and B if they differ and are known: then equal steps have seen different numbers of samples."""
    sizes = [str(side.parameters.get(BATCH_SIZE, "")) for side in (a, b)]
    if sizes[0] == sizes[1] or not all(size.isascii() and size.isdecimal() for size in sizes):
        return None
    return int(sizes[0]), int(sizes[1])


def _evaluation(a: RunFacts, b: RunFacts) -> list[Section]:
    """Compare the metrics of evaluations, where MLflow has any."""
    if not a.results and not b.results:
        return []
    first, second = ({name: f"{value:.6g}" for name, value in side.results.items()} for side in (a, b))
    return [_section("results of evaluations", first, second, sorted)]


def _results(overlays: Sequence[Overlay]) -> Section:
    rows, equal, once = [], 0, []
    for one in overlays:
        if one.title == SPEED:
            continue
        if not one.a or not one.b:
            once.append(f"{one.title} ({'B' if not one.a else 'A'})")
        elif one.parts_at is None and one.a.keys() & one.b.keys():
            equal += 1
        else:
            rows.append(Difference(one.title, _last(one.a), _last(one.b), _parting(one)))
    about = [f"equal at all common steps: {equal} of {equal + len(rows)} curves"] if equal else []
    about += [f"logged for one run only: {', '.join(once)}"] if once else []
    return Section(
        "last values of curves, and the steps from which they differ",
        rows,
        "; ".join(about) or ("" if rows else "not recorded"),
    )


def _last(curve: Curve) -> str:
    step = max(curve)
    return f"{curve[step]:.6g} (step {step})"


def _parting(one: Overlay) -> str:
    if one.parts_at is None:
        return "no common step"
    step = one.parts_at
    apart = apart_from(one.a, one.b)
    if apart == step:
        return f"from step {step}, by more than 1 %"
    widely = "" if apart is None else f", by more than 1 % from {apart}"
    return f"from step {step}{widely}"


def _speed(a: RunFacts, b: RunFacts) -> Section:
    if a.speed is None or b.speed is None:
        return Section("speed", (), _unknown(a.speed is not None, b.speed is not None))
    ratio = f"B is {b.speed / a.speed:.2f} times as fast" if a.speed else ""
    row = Difference("samples per second, median", format_number(a.speed), format_number(b.speed), ratio)
    return Section("speed", [row], "")


def _verdict(
    a: RunFacts, b: RunFacts, parameters: Section, others: Sequence[Section], overlays: Sequence[Overlay]
) -> list[str]:
    named = [
        f"{rank.short_name(one.name)} ({one.a}, {one.b})"
        for one in parameters.differences
        if rank.effect(one.name) == "result"
    ]
    same = [] if parameters.about.startswith("not recorded") or named else ["parameters"]
    unknown = []
    for section in others:
        if section.about.startswith("not recorded"):
            unknown.append(f"{section.title} ({section.about.removeprefix('not recorded ')})")
        elif _matters(section):
            named.append(section.title)
        else:
            same.append(section.title)
    rounding = [rank.short_name(one.name) for one in parameters.differences if rank.effect(one.name) == "rounding"]
    lines = []
    if a.place == b.place:
        lines.append("A and B are the same run.")
    elif named:
        more = f" and {len(named) - _MAX_NAMED} more" if len(named) > _MAX_NAMED else ""
        lines.append(f"The two differ in: {', '.join(named[:_MAX_NAMED])}{more}.")
    else:
        lines.append("Nothing that is recorded and could change the result differs.")
    lines += [f"The same: {', '.join(same)}."] if same else []
    lines += [f"Differences that change only the rounding: {', '.join(rounding)}."] if rounding else []
    lines += [f"Not recorded: {', '.join(unknown)}."] if unknown else []
    return [*lines, *_curve_sentences(overlays, explained=bool(named or rounding))]


def _matters(section: Section) -> bool:
    if section.title == "code" and section.about.startswith("the source of the package is the same"):
        return False
    return any(one.name not in _UNIMPORTANT_HARDWARE for one in section.differences)


def _curve_sentences(overlays: Sequence[Overlay], *, explained: bool) -> list[str]:
    compared = [one for one in overlays if one.title not in _NOT_COMPARED]
    common = {step for one in compared for step in one.a.keys() & one.b.keys()}
    if not common:
        return ["The curves have no logged step in common."]
    parted = [one for one in compared if one.parts_at is not None]
    if not parted:
        return [f"The curves are equal at all {len(common)} common steps."]
    first = min(parted, key=lambda one: (one.parts_at or 0, overlays.index(one)))
    lines = [f"The curves part at step {first.parts_at}: {first.title} is {_at(first)}."]
    if first.samples_of_a_step is not None:
        lines[0] += " Their steps have different numbers of samples."
    if not explained:
        lines.append(f"Nothing that is recorded explains it; {EXPLANATIONS}.")
    return lines


def _at(one: Overlay) -> str:
    step = one.parts_at or 0
    return f"{one.a[step]:.6g} and {one.b[step]:.6g}"
