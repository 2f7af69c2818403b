"""report/: what the check of the data found, for people (data.html, samples.png) and programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.data.checking import SPLITS, DataFacts
from classifier.data.findings import ERROR, Finding, one_line
from classifier.files import replacing, write_text
from classifier.page import data_uri, render

NOT_LOOKED_FOR = "near duplicates: not looked for (pip install imagehash)"
_MOST_ITEMS = 20
_BINS = 16

_PAGE = """{% extends "shell" %}
{% block title %}{{ title }}: data{% endblock %}
{% block css %}
  .facts { margin: .3rem 0; }
  .finding { margin: .7rem 0; padding: .5rem 1.1rem; background: var(--amber-wash);
    border-left: 5px solid var(--amber); }
  .finding.error { background: var(--red-wash); border-left-color: var(--red); }
  .finding p { margin: 0; font-weight: 600; }
  .finding ul { margin: .3rem 0 0; padding-left: 1.2rem; font-size: .86rem;
    overflow-wrap: anywhere; }
  .none { margin: .7rem 0; padding: .5rem 1.1rem; background: var(--green-wash);
    border-left: 5px solid var(--green); }
  th { max-width: 24rem; overflow-wrap: anywhere; }
  tbody th { font-weight: normal; }
  tr.all th, tr.all td { border-top: 2px solid var(--rule); border-bottom: 0; font-weight: 600; }
  .bar { display: flex; align-items: center; gap: .5rem; min-width: 10rem; }
  .bar i { display: block; height: .75rem; background: var(--blue); }
  .zero { color: var(--red); font-weight: 600; }
  svg rect { fill: var(--blue); }
  svg text { fill: var(--dim); }
{% endblock %}
{% block body %}
<h1>{{ title }}: data</h1>
<p class="facts">{{ summary }}</p>
<h2>Findings</h2>
{% for finding in findings %}<div class="finding {{ finding.severity }}">
<p>{{ finding.severity }}: {{ finding.message }}</p>
<ul>{% for line in finding.lines %}<li>{{ line }}</li>{% endfor %}</ul></div>
{% else %}<p class="none">None.</p>
{% endfor %}
{% for note in notes %}<p class="facts">{{ note }}</p>
{% endfor %}
<h2>Images per class</h2>
<div class="scroll"><table>
<thead><tr><th>class</th>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}
<tr><th>{{ row.name }}</th>{% for cell in row.cells %}<td>{% if cell is none %}{% else %}
<div class="bar"><i style="width: {{ cell.width }}rem"></i>
<span{% if not cell.number %} class="zero"{% endif %}>{{ cell.number }}</span></div>{% endif %}</td>
{% endfor %}</tr>{% endfor %}
<tr class="all"><th>images</th>{% for number in totals %}<td>{{ number }}</td>{% endfor %}</tr>
</tbody>
</table></div>
{% if sizes %}<h2>Sizes in pixels</h2>
<div class="scroll"><table>
<thead><tr><th></th><th>smallest</th><th>median</th><th>largest</th></tr></thead>
<tbody>{% for name in ("width", "height") %}<tr><th>{{ name }}</th>
{% for which in ("min", "median", "max") %}<td class="n">{{ "%g" % sizes[name][which] }}</td>
{% endfor %}</tr>{% endfor %}</tbody>
</table></div>
<p class="facts">The shorter side of {{ histogram.total }} images{% if histogram.line %};
the dashed line is that of the model's input, {{ histogram.input }}{% endif %}.</p>
<svg width="720" height="150" viewBox="0 0 720 150" role="img" aria-label="sizes">
{% for bar in histogram.bars %}<rect x="{{ bar.x }}" y="{{ bar.y }}" width="{{ bar.width }}"
 height="{{ bar.height }}"><title>{{ bar.title }}</title></rect>
{% endfor %}{% if histogram.line %}<line x1="{{ histogram.line }}" x2="{{ histogram.line }}"
 y1="4" y2="124" stroke="#d55e00" stroke-width="2" stroke-dasharray="5 3"/>{% endif %}
<line x1="10" x2="710" y1="124" y2="124" stroke="#999"/>
{% for tick in histogram.ticks %}<text x="{{ tick.x }}" y="142" font-size="12"
 text-anchor="middle">{{ tick.text }}</text>
{% endfor %}</svg>{% endif %}
{% if picture %}<h2>Training images, augmented</h2>
<p class="facts">{{ caption }}</p>
<img alt="augmented training images, a row a class" src="{{ picture }}">{% endif %}
{% endblock %}"""


def write_report(
    facts: DataFacts,
    findings: Sequence[Finding],
    folder: Path,
    title: str,
    samples: Mapping[str, Sequence[NDArray[np.uint8]]],
) -> Path:
    """Write data.html, data.json and, where there are samples, samples.png.

    Args:
        facts: Of all stages.
        findings: What they mean.
        folder: Where the files go; made where it is missing.
        title: Name of the experiment.
        samples: Class name -> augmented images (H, W, 3) uint8.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "data.json", json.dumps(as_dict(facts, findings), indent=2) + "\n")
    picture = None
    if samples:
        from classifier.data.samples import grid

        file = folder / "samples.png"
        with replacing(file) as temporary:
            grid(samples).save(temporary, format="PNG")
        picture = data_uri(file.read_bytes(), "image/png")
    text = render(
        _PAGE,
        title=one_line(title),
        summary=summary(facts, findings),
        findings=[_shown(finding) for finding in findings],
        notes=list(notes_of(facts)),
        columns=facts.stages,
        rows=_rows(facts),
        totals=list(facts.num_images().values()),
        sizes=sizes_of(facts),
        histogram=_histogram(facts),
        picture=picture,
        caption=_caption(samples, facts),
    )
    write_text(folder / "data.html", text)
    return folder / "data.html"


def as_dict(facts: DataFacts, findings: Sequence[Finding]) -> dict[str, Any]:
    """All that was found, for JSON; a finding's items in full."""
    return {
        "num_images": len(facts.entries),
        "num_unreadable": sum(file.error is not None for _, file in facts.seen()),
        "images": facts.num_images(),
        "classes": facts.counts(),
        "sizes": sizes_of(facts),
        "input_size": list(facts.input_size) if facts.input_size else None,
        "near_duplicates_looked_for": facts.near is not None,
        "findings": [
            {
                "severity": finding.severity,
                "kind": finding.kind,
                "stage": finding.stage,
                "message": finding.message,
                "items": [item.to_dict() for item in finding.items],
            }
            for finding in findings
        ],
        "notes": list(notes_of(facts)),
    }


def summary(facts: DataFacts, findings: Sequence[Finding]) -> str:
    """What was looked at and how much was found, in one line."""
    parts = ", ".join(f"{name} {number}" for name, number in facts.num_images().items())
    errors = sum(finding.severity == ERROR for finding in findings)
    numbers = {"error": errors, "warning": len(findings) - errors}
    found = ", ".join(
        f"{number} {noun}{'s' * (number > 1)}" for noun, number in numbers.items() if number
    )
    return f"{len(facts.entries)} images ({parts}): {found or 'no findings'}"


def notes_of(facts: DataFacts) -> Iterator[str]:
    """What was not looked at, and why."""
    pairs = list(zip(facts.entries, facts.files, strict=True))
    without = Counter(entry.stage for entry, file in pairs if file is None)
    for stage, number in without.items():
        yield f"{stage}: {number} images without files of their own: counted, not read"
    foreign = Counter(entry.stage for entry, file in pairs if file and not entry.decodes)
    for stage, number in foreign.items():
        yield f"{stage}: {number} images that your own data set reads: hashed, not decoded"
    if facts.near is None and len(without) < len(facts.stages):
        yield NOT_LOOKED_FOR


def sizes_of(facts: DataFacts) -> dict[str, dict[str, float]]:
    """Smallest, median and largest width and height in pixels; empty when none is known."""
    known = [(file.width, file.height) for _, file in facts.seen() if file.width]
    if not known:
        return {}
    return {
        name: {
            "min": int(min(values)),
            "median": float(np.median(values)),
            "max": int(max(values)),
        }
        for name, values in zip(("width", "height"), zip(*known, strict=True), strict=True)
    }


def _shown(finding: Finding) -> dict[str, Any]:
    lines = [item.text() for item in finding.items[:_MOST_ITEMS]]
    more = len(finding.items) - _MOST_ITEMS
    if more > 0:
        lines.append(f"... and {more} more, see data.json")
    return {"severity": finding.severity, "message": finding.message, "lines": lines}


def _rows(facts: DataFacts) -> list[dict[str, Any]]:
    """A row a class, a cell a stage; bars in proportion to the largest of all."""
    counts = facts.counts()
    largest = max((number for count in counts.values() for number in count.values()), default=0)

    def cell(stage: str, name: str) -> dict[str, Any] | None:
        if stage not in SPLITS:
            return None
        number = counts[stage][name]
        return {"number": number, "width": round(8 * number / max(largest, 1), 3)}

    return [
        {"name": one_line(name), "cells": [cell(stage, name) for stage in facts.stages]}
        for name in facts.class_names
    ]


def _histogram(facts: DataFacts) -> dict[str, Any]:
    """Of the shorter sides, on a logarithmic scale, as shapes 720 x 150."""
    sides = np.array([min(file.width, file.height) for _, file in facts.seen() if file.width])
    if not len(sides):
        return {}
    line = min(facts.input_size) if facts.input_size else None
    marks = [*sides, *([line] if line else [])]
    low, high = float(min(marks)) / 1.1, float(max(marks)) * 1.1
    edges = np.geomspace(low, high, _BINS + 1)
    counts, _ = np.histogram(sides, edges)

    def place(value: float) -> float:
        return round(10 + 700 * float(np.log(value / low) / np.log(high / low)), 1)

    bars = [
        {
            "x": place(edges[index]) + 1, "width": round(700 / _BINS - 2, 1),
            "y": round(124 - 115 * count / counts.max(), 1),
            "height": round(115 * count / counts.max(), 1),
            "title": f"{edges[index]:.0f} to {edges[index + 1]:.0f} pixels: {count}",
        }
        for index, count in enumerate(counts)
    ]  # fmt: skip
    doubled = [2.0**power for power in range(int(np.ceil(np.log2(low))), 24)]
    marked = [value for value in doubled if value <= high] or [float(np.median(sides))]
    ticks = [{"x": place(value), "text": f"{value:.0f}"} for value in marked]
    at = place(line) if line else None
    return {"bars": bars, "ticks": ticks, "line": at, "input": line, "total": len(sides)}


def _caption(samples: Mapping[str, Any], facts: DataFacts) -> str:
    left_out = len(facts.class_names) - len(samples)
    names = ", ".join(one_line(name) for name in samples)
    more = f"; {left_out} more classes are not shown" if left_out else ""
    return f"As the network sees them in training. A row a class: {names}{more}."
