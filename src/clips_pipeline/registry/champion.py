"""The aliases `champion` and `challenger` of a registered model: who has them, why, and who had them before.

Tags of a version: `gate.decision` (`promoted`, `kept` or `rolled back`), `gate.reason`, `gate.figures`, `gate.against` (the
champion it was compared with) and `gate.time`; of one that became champion also `champion.before`.
MLflow has no locks. Two registrations at the same time may both find the same champion, and both beat it; so whoever has set the
alias looks for such rivals afterwards, and the best of them gets it. All read the same tags and come to the same result.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from clips_pipeline.config import ConfigError
from clips_pipeline.registry.gate import Decision

log = logging.getLogger(__name__)

GATE_DECISION = "gate.decision"
GATE_REASON = "gate.reason"
GATE_FIGURES = "gate.figures"
GATE_AGAINST = "gate.against"
GATE_TIME = "gate.time"
BEFORE = "champion.before"
PROMOTED, KEPT, ROLLED_BACK = "promoted", "kept", "rolled back"
NOBODY = "none"

_MOST_ROUNDS = 20
_MOST_WRITES = 3
# A version promoted longer ago against the same champion was not promoted at the same time: someone moved the alias back.
_RIVALS_WITHIN_S = 600.0
_LONGEST_TAG = 4_900

Decide = Callable[[int, int | None], Decision]
"""A version against another one, or against none."""


@dataclass(frozen=True)
class Aliases:
    """Names of the two aliases of a registered model.

    Attributes:
        model: the registered model.
        champion: what production loads.
        challenger: the loser of the last comparison.
    """

    model: str
    champion: str = "champion"
    challenger: str = "challenger"


def holder(client: MlflowClient, model: str, alias: str) -> int | None:
    """The version that has an alias, or None.

    Raises:
        ConfigError: there is no such model.
    """
    try:
        version = client.get_registered_model(model).aliases.get(alias)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ConfigError(f"no registered model {model!r}; `kedro run --pipelines register` makes one") from None
    return None if version is None else int(version)


def settle(client: MlflowClient, names: Aliases, version: int, decide: Decide) -> Decision:
    """Compare a new version with the champion, and move the aliases.

    Args:
        client: of the tracking server.
        names: of the aliases.
        version: the new one.
        decide: compares two versions.

    Returns:
        what was decided about the new version, with what a rival may have changed afterwards.
    """
    for _ in range(_MOST_ROUNDS):
        champion = holder(client, names.model, names.champion)
        if champion == version:
            # Registered twice: it must not have to beat itself, and its first reason stays.
            tags = client.get_model_version(names.model, str(version)).tags
            return Decision(True, tags.get(GATE_REASON, "is the champion"))
        decision = decide(version, champion)
        _record(client, names.model, version, decision, champion)
        if not decision.promote:
            _set_alias(client, names.model, names.challenger, str(version))
            return decision
        # Whoever moved the alias meanwhile is the one to beat now.
        if holder(client, names.model, names.champion) == champion:
            _crown(client, names, version, champion)
            return _among_rivals(client, names, version, champion, decide, decision)
    raise ConfigError(
        f"{names.model}: the alias {names.champion!r} keeps moving; try again when others have registered"
    )


def roll_back(names: Aliases, reason: str) -> tuple[int, int]:
    """Give the alias back to the version that had it before, and record that.

    Returns:
        the version that lost the alias, and the one that has it now.

    Raises:
        ConfigError: no champion, or it was the first one.
    """
    client = MlflowClient()
    champion = holder(client, names.model, names.champion)
    if champion is None:
        raise ConfigError(f"{names.model} has no version with the alias {names.champion!r}; nothing to roll back")
    tags = client.get_model_version(names.model, str(champion)).tags
    before = tags.get(BEFORE, NOBODY)
    if before == NOBODY:
        raise ConfigError(f"{names.model} {champion} is the first champion; there is none before it to go back to")
    _exists(client, names.model, int(before))
    why = f"rolled back to version {before}: {reason}"
    for key, value in ((GATE_DECISION, ROLLED_BACK), (GATE_REASON, why), (GATE_TIME, _now())):
        _set_tag(client, names.model, str(champion), key, value[:_LONGEST_TAG])
    _set_alias(client, names.model, names.champion, before)
    _set_alias(client, names.model, names.challenger, str(champion))
    return champion, int(before)


def crown(names: Aliases, version: int, reason: str) -> int | None:
    """Give a version the alias by hand, and record that.

    Returns:
        the version that had it.

    Raises:
        ConfigError: no such version.
    """
    client = MlflowClient()
    _exists(client, names.model, version)
    champion = holder(client, names.model, names.champion)
    if champion != version:
        _record(client, names.model, version, Decision(True, f"set by hand: {reason}"), champion)
        _crown(client, names, version, champion)
    return champion


def _exists(client: MlflowClient, model: str, version: int) -> None:
    try:
        client.get_model_version(model, str(version))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ConfigError(f"{model} has no version {version}") from None


def _crown(client: MlflowClient, names: Aliases, version: int, champion: int | None) -> None:
    before = NOBODY if champion is None else str(champion)
    _set_tag(client, names.model, str(version), BEFORE, before)
    _set_alias(client, names.model, names.champion, str(version))
    if champion is not None:
        _set_alias(client, names.model, names.challenger, before)


def _record(client: MlflowClient, model: str, version: int, decision: Decision, champion: int | None) -> None:
    tags = {
        GATE_REASON: decision.reason,
        GATE_FIGURES: decision.figures,
        GATE_AGAINST: NOBODY if champion is None else str(champion),
        GATE_TIME: _now(),
        # The last one: rivals look for it.
        GATE_DECISION: PROMOTED if decision.promote else KEPT,
    }
    for key, value in tags.items():
        _set_tag(client, model, str(version), key, value[:_LONGEST_TAG])


def _among_rivals(
    client: MlflowClient, names: Aliases, version: int, champion: int | None, decide: Decide, decision: Decision
) -> Decision:
    """Of all that beat the same champion at the same time, the alias goes to the best: each must beat those before it."""
    against = NOBODY if champion is None else str(champion)
    rivals = sorted(
        int(other.version)
        for other in client.search_model_versions(f"name='{names.model}'")
        if _is_rival(other, against)
    )
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
        _record(client, names.model, loser, found, best)
        _set_alias(client, names.model, names.challenger, str(loser))
    if holder(client, names.model, names.champion) != best:
        _set_alias(client, names.model, names.champion, str(best))
    log.warning("%s: versions %s were registered at the same time; %d is the champion", names.model, rivals, best)
    if best == version:
        return decision
    # Another one may have found the same before, and have said so in this version's tags.
    reason = client.get_model_version(names.model, str(version)).tags[GATE_REASON]
    return Decision(False, reason, None if version not in lost else lost[version].difference)


def _set_alias(client: MlflowClient, model: str, alias: str, version: str) -> None:
    _written(lambda: client.set_registered_model_alias(model, alias, version))


def _set_tag(client: MlflowClient, model: str, version: str, key: str, value: str) -> None:
    _written(lambda: client.set_model_version_tag(model, version, key, value))


def _written(write: Callable[[], None]) -> None:
    """MLflow looks whether a row is there, then inserts it. Where another process has put it there in between, the database
    refuses; the next time MLflow finds the row, and updates it.
    """
    for _ in range(_MOST_WRITES - 1):
        try:
            write()
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":
                raise
        else:
            return
    write()


def _is_rival(version: ModelVersion, against: str) -> bool:
    tags = version.tags
    if tags.get(GATE_DECISION) != PROMOTED or tags.get(GATE_AGAINST) != against:
        return False
    return time.time() - float(tags.get(GATE_TIME, "0")) < _RIVALS_WITHIN_S


def _now() -> str:
    return f"{time.time():.3f}"
