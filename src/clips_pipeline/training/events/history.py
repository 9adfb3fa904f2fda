"""Training history as a table, for `dvc plots` and users."""

import pandas as pd

from clips_pipeline.training.events.event_log import STEP_NUMBERS, Event


def history(events: list[Event]) -> pd.DataFrame:
    """Return one row per step that logged or evaluated, in order; cells without a value are empty."""
    rows: dict[int, dict[str, float]] = {}
    for event in events:
        if event["kind"] == "step":
            row = rows.setdefault(event["step"], {"step": event["step"], "samples": event["samples"]})
            row.update({f"loss_{name}": value for name, value in event["losses"].items()})
            # A log of an earlier version may lack some of them.
            row.update({name: event[name] for name in STEP_NUMBERS if name in event})
        elif event["kind"] == "evaluation":
            row = rows.setdefault(event["step"], {"step": event["step"], "samples": event["samples"]})
            row.update({f"validation_{name}": value for name, value in event["metrics"].items()})
    return pd.DataFrame([rows[step] for step in sorted(rows)])
