"""report/index.html of a comparison: all runs on one page that carries all that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from classifier.evaluation.comparison.tables import Rows, caution, verdicts
from classifier.evaluation.comparison.verdicts import LOWER_IS_BETTER, Comparison
from classifier.evaluation.picture import Picture, plain
from classifier.evaluation.results import Estimate
from classifier.page import render

_FACTS = ("seed", "best_epoch", "num_epochs", "num_parameters", "wall_seconds")

_PAGE = """{% extends "shell" %}
{% block title %}{{ title }}{% endblock %}
{% block css %}
  .verdict { margin: .5rem 0; padding: .5rem 1.1rem; border-left: 5px solid var(--rule);
    background: color-mix(in srgb, var(--rule) 12%, transparent); overflow-wrap: anywhere; }
  .verdict.found { background: var(--blue-wash); border-left-color: var(--blue); }
  th, td { vertical-align: top; }
  tbody th { font-weight: normal; max-width: 20rem; min-width: 9rem; overflow-wrap: anywhere; }
  td.n small, th small { display: block; color: var(--dim); font-weight: normal; }
  td.n.best { font-weight: 600; }
  td.v { max-width: 16rem; min-width: 5rem; overflow-wrap: anywhere; }
  figure { margin: 0; }
  figure svg text { white-space: pre; }
  figcaption { margin-top: .4rem; max-width: 44rem; color: var(--dim); font-size: .86rem; }
  @media (max-width: 40rem) { figure svg { max-width: none; } }
{% endblock %}
{% block body %}
<h1>{{ title }}</h1>
<p class="facts">{{ images }}.</p>
<h2>Verdicts</h2>
{% for line in verdicts %}<p class="verdict{% if line.found %} found{% endif %}">{{ line.text }}</p>
{% endfor %}
<p class="facts">{{ caution }}</p>
<h2>Figures</h2>
<div class="scroll"><table>
<thead><tr><th>run</th>{% for metric in metrics %}<th>{{ metric }}</th>{% endfor %}
{% for name in facts %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in runs %}
<tr><th>{{ row.name }}<small>{{ row.table }}</small></th>{% for cell in row.figures %}
<td class="n{% if cell.best %} best{% endif %}">{{ cell.value }}
<small>{{ cell.interval }}</small></td>
{% endfor %}{% for cell in row.facts %}<td class="n">{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</tbody>
</table></div>
<p class="facts">In bold the best of each column, whether or not a difference is shown.</p>
{% for picture in pictures %}<h2>{{ picture.title }}</h2>
<figure><div class="scroll">{{ picture.svg | safe }}</div>
<figcaption>{{ picture.caption }}</figcaption></figure>
{% endfor %}
<h2>Pairs</h2>
<div class="scroll"><table>
<thead><tr><th>metric</th><th>run</th><th>minus</th><th>difference</th><th>better</th></tr></thead>
<tbody>{% for row in pairs %}
<tr><td>{{ row.metric }}</td><th>{{ row.first }}</th><th>{{ row.second }}</th>
<td class="n{% if row.better %} best{% endif %}">{{ row.value }}
<small>{{ row.interval }}</small></td>
<th>{{ row.better or "no difference shown" }}</th></tr>{% endfor %}</tbody>
</table></div>
<h2>Where the configurations differ</h2>
{% if differences %}<div class="scroll"><table>
<thead><tr><th>key</th>{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in differences %}
<tr><th>{{ row.key }}</th>{% for cell in row.cells %}<td class="v">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>{% else %}<p class="facts">In nothing that is known.</p>{% endif %}
{% endblock %}
"""


def page_of(
    comparison: Comparison,
    images: str,
    runs: Rows,
    differences: Rows,
    pictures: Mapping[str, Picture],
) -> str:
    """The page, as HTML.

    Args:
        comparison: Of the runs.
        images: What they were compared on, without a full stop.
        runs: Rows of comparison.csv.
        differences: Rows of config_differences.csv.
        pictures: By a name that is unique among them.
    """
    facts = [name for name in _FACTS if any(row[name] is not None for row in runs)]
    pairs = sorted(comparison.differences, key=lambda one: comparison.metrics.index(one.metric))
    return render(
        _PAGE,
        title=f"Comparison of {len(comparison.names)} runs",
        images=plain(images),
        verdicts=[{"text": plain(line), "found": found} for line, found in verdicts(comparison)],
        caution=caution(comparison),
        metrics=[f"{name} ↓" if name in LOWER_IS_BETTER else name for name in comparison.metrics],
        facts=[name.replace("_", " ") for name in facts],
        runs=[_run(row, comparison, facts) for row in runs],
        names=[plain(name) for name in comparison.names],
        pairs=[
            {"metric": one.metric, "first": plain(one.first), "second": plain(one.second),
             "better": one.better and plain(one.better), "value": f"{one.estimate.value:+.4f}",
             "interval": interval(one.estimate, "+.4f")}
            for one in pairs
        ],
        differences=[
            {"key": plain(row["key"]), "cells": [plain(row[name]) for name in comparison.names]}
            for row in differences
        ],
        pictures=[
            {"title": one.title, "caption": one.caption, "svg": one.svg(name)}
            for name, one in pictures.items()
        ],
    )  # fmt: skip


def _run(row: Mapping[str, Any], comparison: Comparison, facts: Sequence[str]) -> dict[str, Any]:
    figures = []
    for metric, estimate in comparison.estimates[row["run"]].items():
        values = [estimates[metric].value for estimates in comparison.estimates.values()]
        best = min(values) if metric in LOWER_IS_BETTER else max(values)
        figures.append({
            "value": f"{estimate.value:.4f}", "interval": interval(estimate, ".4f"),
            "best": estimate.value == best,
        })  # fmt: skip
    return {
        "name": plain(row["run"]), "table": plain(row["predictions"]), "figures": figures,
        "facts": [_fact(row[name]) for name in facts],
    }  # fmt: skip


def interval(estimate: Estimate, form: str) -> str:
    """The two ends of an interval."""
    return f"{estimate.low:{form}} to {estimate.high:{form}}"


def _fact(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else plain(str(value))
