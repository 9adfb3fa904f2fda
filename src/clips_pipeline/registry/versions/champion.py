"""The aliases `champion` and `challenger` of a registered model: who has them and why, and who had them before.

Tags of a version: `gate.decision` (`promoted`, `kept` or `rolled back`), `gate.reason`, `gate.figures`, `gate.against`
(the champion it was compared with) and `gate.time`; a version that became champion also has `champion.before`.
MLflow has no locks. Two registrations at the same time may both find the same champion, and both beat it. So a process
that has set the alias looks for such concurrent versions afterwards, and the best of them gets the alias. All processes
read the same tags and come to the same result.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from clips_pipeline.config import ConfigError
from clips_pipeline.io.redact import redact
from clips_pipeline.registry.config import RegistryConfig
from clips_pipeline.registry.tracking.runs import config_error_if_missing
from clips_pipeline.registry.versions.gate import Decision

log = logging.getLogger(__name__)

GATE_DECISION = "gate.decision"
GATE_REASON = "gate.reason"
GATE_FIGURES = "gate.figures"
GATE_AGAINST = "gate.against"
GATE_TIME = "gate.time"
PREVIOUS_CHAMPION = "champion.before"
PROMOTED, KEPT, ROLLED_BACK = "promoted", "kept", "rolled back"
NO_CHAMPION = "none"

_MAX_ROUNDS = 20
# Versions promoted against the same champion longer ago are not concurrent: a user has moved the alias back.
_CONCURRENT_WITHIN_S = 600.0
_MAX_TAG_LENGTH = 4_900

Comparator = Callable[[int, int | None], Decision]
"""Compares a version with another one, or with none."""


def version_with_alias(client: MlflowClient, model: str, alias: str) -> int | None:
    """Return the version that has an alias, or None.

    Raises:
        ConfigError: there is no such model.
    """
    with config_error_if_missing(f"no registered model {model!r}; create one with `kedro run --pipelines register`"):
        version = client.get_registered_model(model).aliases.get(alias)
    return None if version is None else int(version)


def update_aliases(client: MlflowClient, names: RegistryConfig, version: int, decide: Comparator) -> Decision:
    """Compare a new version with the champion, and move the aliases.

    Args:
        client: client of the tracking server.
        names: names of the model and the aliases.
        version: the new version.
        decide: compares two versions.

    Returns:
        the decision on the new version, with the effect of concurrent registrations.
    """
    model = _RegisteredModel(client, names)
    for _ in range(_MAX_ROUNDS):
        champion = model.champion
        if champion == version:
            # Registered again: it is not compared with itself, and keeps its first reason.
            return Decision(True, model.tags(version).get(GATE_REASON, "is the champion"))
        decision = decide(version, champion)
        model.record(version, decision, champion)
        if not decision.promote:
            model.set_alias(names.challenger, version)
            return decision
        # If another process has moved the alias meanwhile, compare with its version.
        if model.champion == champion:
            model.set_champion(version, champion)
            return _resolve_concurrent_registrations(model, version, champion, decide, decision)
    raise ConfigError(f"{names.name}: the alias {names.alias!r} is being moved by other registrations; try again later")


def roll_back(names: RegistryConfig, reason: str) -> tuple[int, int]:
    """Give the alias back to the version that had it before, and store the reason.

    Returns:
        the version that lost the alias, and the one that has it now.

    Raises:
        ConfigError: there is no champion, or it was the first one.
    """
    model = _RegisteredModel(MlflowClient(), names)
    champion = model.champion
    if champion is None:
        raise ConfigError(
            f"{names.name} has no version with the alias {names.alias!r}, so there is nothing to roll back"
        )
    previous = model.tags(champion).get(PREVIOUS_CHAMPION, NO_CHAMPION)
    if previous == NO_CHAMPION:
        raise ConfigError(f"{names.name} {champion} is the first champion, so there is nothing to roll back to")
    model.tags(int(previous))
    why = f"rolled back to version {previous}: {reason}"
    model.tag(champion, {GATE_DECISION: ROLLED_BACK, GATE_REASON: why, GATE_TIME: _now()})
    model.set_alias(names.alias, int(previous))
    model.set_alias(names.challenger, champion)
    return champion, int(previous)


def set_champion(names: RegistryConfig, version: int, reason: str) -> int | None:
    """Give a version the alias by hand, and store the reason.

    Returns:
        the version that had it before.

    Raises:
        ConfigError: there is no such version.
    """
    model = _RegisteredModel(MlflowClient(), names)
    model.tags(version)
    champion = model.champion
    if champion != version:
        model.record(version, Decision(True, f"set by hand: {reason}"), champion)
        model.set_champion(version, champion)
    return champion


@dataclass(frozen=True)
class _RegisteredModel:
    """A registered model with the tags and aliases of its versions."""

    client: MlflowClient
    names: RegistryConfig

    @property
    def champion(self) -> int | None:
        return version_with_alias(self.client, self.names.name, self.names.alias)

    def tags(self, version: int) -> dict[str, str]:
        with config_error_if_missing(f"{self.names.name} has no version {version}"):
            return dict(self.client.get_model_version(self.names.name, str(version)).tags)

    def tag(self, version: int, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._write(self.client.set_model_version_tag, str(version), key, redact(value)[:_MAX_TAG_LENGTH])

    def set_alias(self, alias: str, version: int) -> None:
        self._write(self.client.set_registered_model_alias, alias, str(version))

    def set_champion(self, version: int, champion: int | None) -> None:
        self.tag(version, {PREVIOUS_CHAMPION: _version_text(champion)})
        self.set_alias(self.names.alias, version)
        if champion is not None:
            self.set_alias(self.names.challenger, champion)

    def record(self, version: int, decision: Decision, champion: int | None) -> None:
        tags = {
            GATE_REASON: decision.reason,
            GATE_FIGURES: decision.difference_json,
            GATE_AGAINST: _version_text(champion),
        }
        # The decision last: concurrent registrations look for it.
        self.tag(version, {**tags, GATE_TIME: _now(), GATE_DECISION: PROMOTED if decision.promote else KEPT})

    def _write(self, write: Callable[..., None], *values: str) -> None:
        """Write with retries.

        MLflow checks whether a row exists before it inserts it. If another process inserts the row in between, the
        database refuses; on the next attempt MLflow finds the row and updates it.
        """
        for last in (False, False, True):
            try:
                write(self.names.name, *values)
                return
            except MlflowException as error:
                if last or error.error_code != "BAD_REQUEST":
                    raise


def _resolve_concurrent_registrations(
    model: _RegisteredModel, version: int, champion: int | None, decide: Comparator, decision: Decision
) -> Decision:
    """Give the alias to the best version that beat the same champion at the same time: each must beat those before it."""
    name = model.names.name
    versions = model.client.search_model_versions(f"name='{name}'")
    rivals = sorted(int(other.version) for other in versions if _is_concurrent(other, _version_text(champion)))
    if rivals in ([], [version]):
        return decision
    best, lost = rivals[0], {}
    for rival in rivals[1:]:
        found = decide(rival, best)
        if found.promote:
            lost[best] = Decision(False, f"version {rival}, registered at the same time, is better: {found.reason}")
            best = rival
        else:
            lost[rival] = found
    for loser, found in lost.items():
        model.record(loser, found, best)
        model.set_alias(model.names.challenger, loser)
    if model.champion != best:
        model.set_alias(model.names.alias, best)
    log.warning("%s: versions %s were registered at the same time; %d is the champion", name, rivals, best)
    if best == version:
        return decision
    # Another process may have come to this result first, and have written the reason into this version's tags.
    return Decision(False, model.tags(version)[GATE_REASON], lost[version].difference if version in lost else None)


def _is_concurrent(version: ModelVersion, against: str) -> bool:
    tags = version.tags
    if tags.get(GATE_DECISION) != PROMOTED or tags.get(GATE_AGAINST) != against:
        return False
    return time.time() - float(tags.get(GATE_TIME, "0")) < _CONCURRENT_WITHIN_S


def _version_text(version: int | None) -> str:
    return NO_CHAMPION if version is None else str(version)


def _now() -> str:
    return f"{time.time():.3f}"
