"""report/index.html: a sweep on one page that carries all that it shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from classifier.files import write_text
from classifier.page import data_uri, render
from classifier.tuning.plots import short_names
from classifier.tuning.study import SweepStudy
from classifier.tuning.summary import SweepResult, columns_of
from classifier.tuning.trials import REASON, RETRY_OF, epochs_of, was_interrupted

_PAGE = """{% extends "shell" %}
{% block title %}{{ result.study_name }}{% endblock %}
{% block css %}
  .verdict { margin: 1.2rem 0; padding: .5rem 1.1rem; background: var(--blue-wash);
    border-left: 5px solid var(--blue); }
  .verdict p:first-child { font-size: 1.1rem; font-weight: 600; }
  td.t { min-width: 18rem; max-width: 30rem; overflow-wrap: anywhere; }
  tr.best td { background: var(--orange-wash); font-weight: 600; }
  tr.dim td { color: var(--dim); }
{% endblock %}
{% block body %}
<h1>{{ result.study_name }}</h1>
<p class="facts">{{ objectives }}. {{ counts }} of {{ result.n_trials }} trials.</p>
{% if result.verdict %}<div class="verdict">
{% for line in result.verdict %}<p>{{ line }}</p>
{% endfor %}</div>{% endif %}
{% if chosen %}<h2>{{ "The Pareto front" if result.pareto_trials else "The best trial" }}</h2>
<div class="scroll"><table>
<thead><tr><th>key</th>{% for column in chosen %}<th>{{ column.title }}</th>{% endfor %}</tr>
</thead>
<tbody>{% for key in keys %}
<tr><td>{{ key }}</td>{% for column in chosen %}<td class="n">{{ column.cells[key] }}</td>
{% endfor %}</tr>{% endfor %}</tbody>
</table></div>{% endif %}
{% if repeated %}<h2>Repeated over seeds</h2>
<div class="scroll"><table>
<thead><tr><th>{{ result.monitor }}</th>
{% for seed in repeated.seeds %}<th>seed {{ seed }}</th>{% endfor %}</tr></thead>
<tbody>{% for name, cells in repeated.rows.items() %}<tr><td>{{ name }}</td>
{% for cell in cells %}<td class="n">{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody>
</table></div>{% endif %}
{% for title, source in pictures.items() %}<h2>{{ title }}</h2>
<img alt="{{ title }}" src="{{ source }}">
{% endfor %}
<h2>All trials</h2>
<div class="scroll"><table>
<thead><tr>{% for name in header %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}
<tr class="{{ row.kind }}">{% for cell in row.cells %}<td class="n">{{ cell }}</td>{% endfor %}
<td class="t">{{ row.reason }}</td></tr>{% endfor %}</tbody>
</table></div>
{% endblock %}"""


def write_report(
    study: SweepStudy, result: SweepResult, folder: Path, plots: Mapping[str, Path]
) -> Path:
    """Write index.html into a folder that exists, given title -> PNG file of the plots."""
    settings = study.settings
    metrics, keys = settings.metrics, list(settings.space.parameters)
    names = short_names(keys).values()
    text = render(
        _PAGE,
        result=result,
        objectives=", ".join(f"{o.metric} {o.direction}d" for o in settings.objectives),
        counts=_counts(result),
        keys=[*metrics, *keys],
        chosen=_chosen(study, result),
        repeated=_repeated(result),
        pictures={title: data_uri(file.read_bytes(), "image/png") for title, file in plots.items()},
        header=["trial", "state", *metrics, *names, "epochs", "seconds", "remark"],
        rows=[_row(trial, study, result) for trial in study.trials()],
    )
    file = folder / "index.html"
    write_text(file, text)
    return file


def _repeated(result: SweepResult) -> dict[str, Any] | None:
    """The values of the repetitions: a row a trial, a column a seed."""
    seeds = sorted({seed for values in result.confirmed.values() for seed in values})
    rows = {
        "default" if number == result.default_trial else f"trial {number}": [
            _shown(values.get(seed, "failed")) for seed in seeds
        ]
        for number, values in result.confirmed.items()
    }
    return {"seeds": seeds, "rows": rows} if seeds else None


def _counts(result: SweepResult) -> str:
    counts = {
        "complete": result.num_complete, "pruned": result.num_pruned,
        "failed": result.num_failed, "to be repeated": result.num_interrupted,
    }  # fmt: skip
    return ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "0"


def _chosen(study: SweepStudy, result: SweepResult) -> list[dict[str, Any]]:
    """The best trial, or those of the front, and the default beside them."""
    trials = study.trials()
    titles = {number: f"trial {number}" for number in result.pareto_trials}
    if result.best_trial is not None:
        titles[result.best_trial] = f"best: trial {result.best_trial}"
    if result.default_trial is not None:
        same = titles.get(result.default_trial)
        titles[result.default_trial] = f"{same}, default" if same else "default"
    return [
        {"title": title, "cells": _cells(trials[number], study)} for number, title in titles.items()
    ]


def _cells(trial: FrozenTrial, study: SweepStudy) -> dict[str, str]:
    """Metrics and parameters of a trial as text."""
    return {name: _shown(value) for name, value in columns_of(trial, study.settings).items()}


def _row(trial: FrozenTrial, study: SweepStudy, result: SweepResult) -> dict[str, Any]:
    duration = trial.duration
    seconds = f"{duration.total_seconds():.1f}" if duration is not None else ""
    best = trial.number == result.best_trial or trial.number in result.pareto_trials
    state = "interrupted" if was_interrupted(trial) else trial.state.name.lower()
    repeats = f"repeats trial {trial.user_attrs[RETRY_OF]}" if RETRY_OF in trial.user_attrs else ""
    return {
        "kind": "best" if best else "" if trial.state is TrialState.COMPLETE else "dim",
        "cells": [
            trial.number, "failed" if state == "fail" else state, *_cells(trial, study).values(),
            epochs_of(trial), seconds,
        ],
        "reason": trial.user_attrs.get(REASON, repeats),
    }  # fmt: skip


def _shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
