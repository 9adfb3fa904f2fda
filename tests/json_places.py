"""Random places in JSON documents, for fuzzing."""

import random
from typing import Any


def random_place(document: Any, draws: random.Random) -> tuple[Any, Any]:
    """Return a list or mapping in `document`, at any depth, and one of its keys."""
    place = document
    while True:
        key = draws.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], dict | list) or not place[key] or draws.random() < 0.15:
            return place, key
        place = place[key]
