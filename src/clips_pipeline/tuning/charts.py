"""What a figure shows, drawn twice from the same numbers: interactive (plotly) and as a picture (matplotlib)."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_PANELS_A_ROW = 3
_COLOURS = ("#1f5fa8", "#c4541c", "#2d7d46", "#7a4fa0", "#8a6d1a", "#5d6d7e")


@dataclass(frozen=True)
class Series:
    """Points of one kind. `shade` from 0 to 1 colours a line by a scale instead of by its place."""

    name: str
    x: list[Any]
    y: list[float]
    hover: list[str]
    style: Literal["points", "line", "bar"] = "points"
    shade: float | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    x_label: str
    y_label: str
    series: list[Series]
    log_x: bool = False


@dataclass(frozen=True)
class Chart:
    """A figure. With no panel, `title` says why there is nothing to show."""

    title: str
    panels: list[Panel]
    wide: bool = False


def to_plotly(chart: Chart) -> Any:
    """The interactive figure (`plotly.graph_objects.Figure`)."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    rows, columns = _shape(chart)
    figure = make_subplots(rows=rows, cols=columns)
    for number, panel in enumerate(chart.panels):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        for index, series in enumerate(panel.series):
            common = {"name": series.name, "hovertext": series.hover, "hoverinfo": "text", "showlegend": _named(panel)}
            colour = _colour(series, index)
            if series.style == "bar":
                trace: Any = go.Bar(x=series.x, y=series.y, marker_color=colour, **common)
            else:
                mode = "lines+markers" if series.style == "line" else "markers"
                trace = go.Scatter(
                    x=_broken(series.x), y=series.y, mode=mode, marker_color=colour, line_color=colour, **common
                )
            figure.add_trace(trace, **place)
        figure.update_xaxes(title_text=panel.x_label, type="log" if panel.log_x else None, **place)
        figure.update_yaxes(title_text=panel.y_label, **place)
    figure.update_layout(title=chart.title, template="plotly_white", height=380 * rows, width=max(900, 520 * columns))
    return figure


def save(chart: Chart, folder: Path, name: str) -> list[Path]:
    """Write `name.html`, which needs no network, and `name.png`."""
    page, picture = folder / f"{name}.html", folder / f"{name}.png"
    to_plotly(chart).write_html(page, include_plotlyjs=True)
    _to_matplotlib(chart).savefig(picture, dpi=110)
    return [page, picture]


def _to_matplotlib(chart: Chart) -> Any:
    from matplotlib.figure import Figure

    rows, columns = _shape(chart)
    width = 9.0 if chart.wide else 5.2 * columns
    figure = Figure(figsize=(width, 3.8 * rows), layout="constrained")
    figure.suptitle(chart.title)
    for number, panel in enumerate(chart.panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        for index, series in enumerate(panel.series):
            colour = _colour(series, index)
            if series.style == "bar":
                axes.bar(series.x, series.y, color=colour, label=series.name)
            else:
                line = "-" if series.style == "line" else "none"
                axes.plot(series.x, series.y, color=colour, label=series.name, linestyle=line, marker="o", markersize=4)
        if panel.log_x:
            axes.set_xscale("log")
        axes.set_xlabel(panel.x_label)
        axes.set_ylabel(panel.y_label)
        if not chart.wide and any(isinstance(value, str) for series in panel.series for value in series.x):
            axes.tick_params(axis="x", labelrotation=25)
        if _named(panel):
            axes.legend(fontsize="small")
    return figure


def _broken(values: list[Any]) -> list[Any]:
    return [value.replace("\n", "<br>") if isinstance(value, str) else value for value in values]


def _shape(chart: Chart) -> tuple[int, int]:
    columns = max(1, min(len(chart.panels), _PANELS_A_ROW))
    return max(1, math.ceil(len(chart.panels) / columns)), columns


def _named(panel: Panel) -> bool:
    return 1 < len(panel.series) <= len(_COLOURS)


def _colour(series: Series, index: int) -> str:
    if series.shade is None:
        return _COLOURS[index % len(_COLOURS)]
    # From grey-blue (worst) to orange (best).
    low, high = (170, 185, 205), (196, 84, 28)
    return "#" + "".join(f"{round(a + (b - a) * series.shade):02x}" for a, b in zip(low, high, strict=True))
