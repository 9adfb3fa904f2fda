"""Callbacks behind one: who is called at which event, in which order, and what a checkpoint holds of them."""

from typing import Any

from composer.core import Callback, Event

from clips_pipeline.training.together import Together


class Told(Callback):  # type: ignore[misc]
    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told

    def batch_end(self, state: Any, logger: Any) -> None:
        self.told.append(f"{self.name} batch_end {state} {logger}")

    def close(self, state: Any, logger: Any) -> None:
        self.told.append(f"{self.name} close")

    def post_close(self) -> None:
        self.told.append(f"{self.name} post_close")


class Counts(Told):
    count = 0

    def fit_start(self, state: Any, logger: Any) -> None:
        self.told.append(f"{self.name} fit_start")

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def test_each_event_reaches_those_that_do_something_at_it_in_their_order() -> None:
    told: list[str] = []
    both = Together([Told("a", told), Counts("b", told)])
    for event in Event:
        if event not in (Event.BATCH_END, Event.FIT_START):
            both.run_event(event, "s", "l")
    assert told == []
    both.run_event(Event.BATCH_END, "s", "l")
    both.run_event(Event.FIT_START, "s", "l")
    both.close("s", "l")
    both.post_close()
    ends = ["a close", "b close", "a post_close", "b post_close"]
    assert told == ["a batch_end s l", "b batch_end s l", "b fit_start", *ends]


def test_a_checkpoint_holds_the_states_by_name() -> None:
    saved = Together([Told("a", []), Counts("b", [])])
    saved.callbacks[1].count = 7
    state = saved.state_dict()
    assert state == {"Counts": {"count": 7}}
    found = Together([Counts("b", []), Told("a", [])])
    found.load_state_dict(state)
    assert found.callbacks[0].count == 7
