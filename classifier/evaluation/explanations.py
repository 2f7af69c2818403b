"""report/ of --explain: images with the maps of their classes, as pictures, tables and a page."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from classifier.evaluation.explanation_pictures import overlaid, panel, write_picture
from classifier.files import replacing, write_text
from classifier.page import data_uri, render
from classifier.spreadsheets import safe_path, write_csv

FOLDER = "explanations"
TABLE = "explanations.csv"
MAPS = "maps.npz"
_COLUMNS = ("path", "truth", "label", "score", "loss", "file", "error")

_PAGE = """{% extends "shell" %}
{% block title %}Explanations{% endblock %}
{% block css %}
  article { margin: 1.8rem 0 0; padding: 1rem 0 0; border-top: 1px solid var(--line); }
  h2 { margin: 0; font-size: 1rem; overflow-wrap: anywhere; }
  article p { margin: .15rem 0 .7rem; overflow-wrap: anywhere; }
  .wrong { color: var(--orange); font-weight: 600; }
  .panels { display: flex; flex-wrap: wrap; gap: .9rem; }
  figure { margin: 0; width: 20rem; max-width: 100%; }
  figure img { width: 100%; }
  figcaption { font-size: .86rem; color: var(--dim); overflow-wrap: anywhere; }
{% endblock %}
{% block body %}
<h1>{{ title }}</h1>
<p class="facts">{{ facts }}</p>
<p class="facts">Bright is what speaks most for the class, relative to the highest place of the same
map; grey does not speak for it. The images are as the network sees them.</p>
{% for one in items %}<article>
<h2>{{ one.path }}</h2>
<p>{% if one.truth is not none %}truth {{ one.truth or "no label" }}, {% endif %}<span
{% if one.wrong %}class="wrong"{% endif %}>predicted {{ one.label or "no label" }}</span>
{%- if one.score %} with {{ one.score }}{% endif %}{% if one.loss is not none %}, loss
{{ "%.3g"|format(one.loss) }}{% endif %}</p>
<div class="panels">{% for heading, source in one.panels %}
<figure><img alt="{{ heading }}" src="{{ source }}"><figcaption>{{ heading }}</figcaption></figure>
{% endfor %}</div>
</article>
{% else %}<p>{{ nothing }}</p>
{% endfor %}
{% if failed %}<h2>Not decoded</h2>
<div class="scroll"><table><thead><tr><th>path</th><th>reason</th></tr></thead>
<tbody>{% for path, reason in failed %}<tr><td>{{ path }}</td><td>{{ reason }}</td></tr>
{% endfor %}</tbody></table></div>{% endif %}
{% endblock %}
"""


@dataclass(frozen=True)
class ClassMap:
    """Where an image speaks for a class.

    Args:
        role: predicted or true.
        name: Of the class.
        probability: What the model gives it, in [0, 1].
        values: (H, W) float32 in [0, 1].
    """

    role: str
    name: str
    probability: float
    values: NDArray[np.float32]

    @property
    def heading(self) -> str:
        """What stands at its picture."""
        nothing = "" if self.values.any() else ": nothing speaks for it"
        return f"{self.role}: {self.name} {self.probability:.3f}{nothing}"


@dataclass(frozen=True)
class Explanation:
    """An image, what the model said of it, and where it looked.

    Args:
        path: As predictions.csv has it.
        label: What was predicted; several labels, or none, joined by `|`.
        score: Its probability; as many as labels.
        truth: Of the same form; None where it is not known.
        loss: None where the truth is not known.
        image: (H, W, 3) as the network sees it, without normalisation.
        maps: Of the predicted class, and of the true one where it is another.
    """

    path: str
    label: str
    score: str
    truth: str | None
    loss: float | None
    image: NDArray[np.uint8]
    maps: list[ClassMap]

    @property
    def wrong(self) -> bool:
        """Whether the prediction is known not to be the truth."""
        return self.truth is not None and self.truth != self.label


@dataclass(frozen=True)
class Explanations:
    """What --explain found.

    Args:
        title: Of the page.
        facts: Where the images come from, how many there are, and at which layer was looked.
        items: In the order in which they are shown.
        failed: (path, reason) of images that could not be decoded.
        nothing: What stands in the place of images where there are none.
    """

    title: str
    facts: str
    items: list[Explanation]
    failed: list[tuple[str, str]] = field(default_factory=list)
    nothing: str = "There is nothing to show."


def write_explanations(found: Explanations, folder: Path) -> Path:
    """Write the pictures, explanations.csv, maps.npz and index.html.

    Args:
        found: What to show.
        folder: report/ of a run; made where it is missing.

    Returns:
        index.html.
    """
    pictures = folder / FOLDER
    pictures.mkdir(parents=True, exist_ok=True)
    names = [f"{number:04d}.png" for number in range(1, len(found.items) + 1)]
    shown = []
    for name, one in zip(names, found.items, strict=True):
        panels = list(_panels(one))
        write_picture(pictures / name, panels, _caption(one))
        shown.append(_shown(one, panels))
    _write_table(found, names, folder / TABLE)
    if found.items:
        _write_maps(found.items, names, pictures / MAPS)
    page = render(
        _PAGE, title=found.title, facts=found.facts, items=shown, failed=found.failed,
        nothing=found.nothing,
    )  # fmt: skip
    write_text(folder / "index.html", _printable(page))
    return folder / "index.html"


def _panels(one: Explanation) -> Iterator[tuple[str, Image.Image]]:
    yield "image", panel(one.image)
    for found in one.maps:
        yield found.heading, overlaid(one.image, found.values)


def _caption(one: Explanation) -> list[str]:
    predicted = f"predicted {one.label or 'no label'} {one.score}".rstrip()
    if one.truth is None:
        return [one.path, predicted]
    loss = "" if one.loss is None else f", loss {one.loss:.3g}"
    return [one.path, f"truth {one.truth or 'no label'}, {predicted}{loss}"]


def _shown(one: Explanation, panels: Sequence[tuple[str, Image.Image]]) -> dict[str, object]:
    """An item as the page shows it: its panels apart, so that a narrow screen stacks them."""
    return {
        "path": one.path, "truth": one.truth, "label": one.label, "score": one.score,
        "loss": one.loss, "wrong": one.wrong,
        "panels": [(heading, _as_jpeg(picture)) for heading, picture in panels],
    }  # fmt: skip


def _as_jpeg(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=88)
    return data_uri(stream.getvalue(), "image/jpeg")


def _printable(text: str) -> str:
    """Bytes of names that are no UTF-8 as escapes: a page knows letters only."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _write_table(found: Explanations, names: Sequence[str], file: Path) -> None:
    rows: list[list[str]] = []
    for name, one in zip(names, found.items, strict=True):
        loss = "" if one.loss is None else f"{one.loss:.8g}"
        path, truth = safe_path(one.path), one.truth or ""
        rows.append([path, truth, one.label, one.score, loss, f"{FOLDER}/{name}", ""])
    for path, reason in found.failed:
        rows.append([safe_path(path), "", "", "", "", "", " ".join(reason.split())])
    write_csv(file, _COLUMNS, rows)


def _write_maps(items: Sequence[Explanation], names: Sequence[str], file: Path) -> None:
    """The maps as arrays: maps (K, H, W) float16, and of each its picture and its class."""
    rows = [(name, one) for name, one in zip(names, items, strict=True) for _ in one.maps]
    maps = [found for one in items for found in one.maps]
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            maps=np.stack([found.values for found in maps]).astype(np.float16),
            picture=np.array([name for name, _ in rows]),
            class_name=np.array([found.name for found in maps]),
            role=np.array([found.role for found in maps]),
        )
