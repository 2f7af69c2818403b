"""A study begun, or found again as it was begun."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.study import StudyDirection

from classifier.errors import ConfigError
from classifier.tuning.samplers import build_pruner
from classifier.tuning.settings import Settings
from classifier.tuning.storage import Storage

log = logging.getLogger(__name__)

_SWEEP, _CONFIG = "sweep", "config"  # user attributes of the study


def open_study(settings: Settings, storage: Storage, config: Mapping[str, Any]) -> optuna.Study:
    """Make the study, or load it where its name is known.

    The resolved configuration may have changed since it was made: the log says what has.

    Raises:
        ConfigError: the study was begun with another direction, metric or search space.
    """
    directions = [StudyDirection[o.direction.upper()] for o in settings.objectives]
    arguments: dict[str, Any] = {
        "study_name": settings.study_name,
        "storage": storage.optuna,
        "pruner": build_pruner(settings.pruner),
    }
    with storage.locked():
        try:
            study = optuna.create_study(directions=directions, **arguments)
        except DuplicatedStudyError:
            study = optuna.load_study(**arguments)
    now = _as_stored(
        {
            "objectives": [[o.metric, o.direction] for o in settings.objectives],
            "search_spaces": settings.space.described(),
        }
    )
    config = _as_stored(config)
    before = study.user_attrs
    if _SWEEP in before:
        _check_unchanged(settings.study_name, before, now, config)
        return study
    if study.directions != directions:  # another program began it
        raise ConfigError(
            "optuna.direction", f"the study {settings.study_name} has: "
            f"{', '.join(direction.name.lower() for direction in study.directions)}",
            got=", ".join(o.direction for o in settings.objectives), remedy="Use a new study_name",
        )  # fmt: skip
    study.set_user_attr(_SWEEP, now)
    study.set_user_attr(_CONFIG, config)
    return study


def _check_unchanged(name: str, before: Mapping[str, Any], now: Any, config: Any) -> None:
    changes = list(_differences(before[_SWEEP], now, "optuna"))
    if changes:
        raise ConfigError(
            "optuna.study_name", f"the study {name} was begun with other settings: "
            f"{'; '.join(changes)}", remedy="Use a new study_name, or put the settings back",
        )  # fmt: skip
    changes = list(_differences(before.get(_CONFIG, {}), config, ""))
    if changes:
        log.warning(
            "the configuration has changed since the study began, so its trials may not compare: "
            "%s", "; ".join(changes),
        )  # fmt: skip


def _as_stored(tree: Any) -> Any:
    """A tree as it comes back from the database: text for keys, lists for tuples."""
    return json.loads(json.dumps(tree, default=str))


def _differences(before: Any, now: Any, key: str) -> Iterator[str]:
    """What differs between two trees, by dotted key.

    Args:
        before: As it comes back from the database.
        now: As it would come back.
        key: Where both stand.
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*before, *now]):
            here = f"{key}.{name}" if key else str(name)
            yield from _differences(before.get(name), now.get(name), here)
    elif json.dumps(before) != json.dumps(now):
        yield f"{key} was {before!r} and is {now!r}"
