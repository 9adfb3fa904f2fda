"""Several callbacks that Composer takes for one."""

from collections.abc import Callable, Sequence
from typing import Any

from composer.core import Callback, Event, State
from composer.loggers import Logger

Handler = Callable[[State, Logger], None]


class Together(Callback):  # type: ignore[misc]
    """Hands an event only to those callbacks that do something at it, in their order.

    Composer goes through every callback at each of the dozen events of a step and makes up a message for each, which was most
    of what it added to a step (`benchmarks.overhead`).

    Args:
        callbacks: at most one of each class, since a checkpoint keeps their states by name.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = list(callbacks)
        self._at: dict[Event, list[Handler]] = {
            event: [getattr(one, event.value) for one in self.callbacks if _does(one, event.value)] for event in Event
        }

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        """Hand it on."""
        for handler in self._at[event]:
            handler(state, logger)

    def state_dict(self) -> dict[str, Any]:
        """States by class name, of those that have one."""
        states = {type(one).__name__: one.state_dict() for one in self.callbacks}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hand them back."""
        for one in self.callbacks:
            if type(one).__name__ in state:
                one.load_state_dict(state[type(one).__name__])

    def close(self, state: State, logger: Logger) -> None:
        """Close each."""
        for one in self.callbacks:
            one.close(state, logger)

    def post_close(self) -> None:
        """Each again, when all are closed."""
        for one in self.callbacks:
            one.post_close()


def _does(callback: Callback, name: str) -> bool:
    return getattr(type(callback), name) is not getattr(Callback, name)
