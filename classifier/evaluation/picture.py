"""A picture of an evaluation: as PNG on white, and as SVG in the colours of the page around it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from classifier.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

# Okabe and Ito's palette: told apart by colour-blind readers too. On the page each colour stands
# for a variable of its style sheet, and the ink for the colour of its text.
INK = "#1a1b1c"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#b0568a"
_ON_THE_PAGE = {
    INK: "currentColor", BLUE: "var(--blue)", ORANGE: "var(--orange)", GREEN: "var(--green)",
    PURPLE: "var(--purple)",
}  # fmt: skip
_FONT = "DejaVu Sans"  # comes with matplotlib, so that a picture is the same everywhere
_STYLE: Any  # matplotlib types its keys one by one
_STYLE = {
    "font.family": [_FONT], "font.size": 9.0, "text.usetex": False, "text.color": INK,
    "axes.labelcolor": INK, "axes.edgecolor": INK, "axes.titlesize": 9.5, "axes.linewidth": 0.7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False, "axes.unicode_minus": True, "axes.grid": False,
    "xtick.color": INK, "ytick.color": INK, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    "xtick.major.width": 0.7, "ytick.major.width": 0.7, "grid.color": INK, "grid.alpha": 0.13,
    "grid.linewidth": 0.7, "legend.frameon": False, "legend.fontsize": 8.5,
    "legend.handlelength": 1.6, "lines.linewidth": 1.7, "hatch.linewidth": 0.6,
    "figure.facecolor": "white", "savefig.facecolor": "white",
    "svg.fonttype": "none", "svg.hashsalt": "classifier", "svg.image_inline": True,
}  # fmt: skip
_PNG_DPI = 130
_LONGEST = 24


@dataclass(frozen=True)
class Picture:
    """A figure and what is said of it.

    Args:
        title: Of the section it stands in.
        caption: What is to be seen, in one or two sentences; the text for those who cannot see it.
        figure: A matplotlib Figure.
        wide: It has as many rows or columns as there are classes, and takes the page's width.
    """

    title: str
    caption: str
    figure: Figure
    wide: bool = False

    def png(self) -> bytes:
        """On white."""
        return self._saved("png", dpi=_PNG_DPI)

    def svg(self, name: str) -> str:
        """An element for a page: its ink is that of the text around it, its text is text.

        Args:
            name: Unique on the page; comes before every id.
        """
        content = self._saved(
            "svg", transparent=True,
            metadata={"Creator": None, "Date": None, "Format": None, "Type": None},
        )  # fmt: skip
        return _for_the_page(content, name, self.caption)

    @cached_property
    def _box(self) -> Bbox:
        """What is drawn, in inches: laid out once for both kinds of file."""
        return self.figure.get_tightbbox().padded(0.05)

    def _saved(self, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        with style(), warnings.catch_warnings():
            # A letter that the font lacks is a box; on the page the reader's fonts have it.
            warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
            self.figure.savefig(buffer, format=kind, bbox_inches=self._box, **options)
        return buffer.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Within, figures are drawn in the style of the report, whatever the user's own is."""
    from matplotlib import rc_context

    with rc_context(_STYLE):
        yield


def new_axes(
    width: float = 4.9, height: float = 3.1, *, xlabel: str = "", ylabel: str = "", grid: str = "y"
) -> tuple[Figure, Axes]:
    """A figure of so many inches with one pair of axes; grid: x, y, both or nothing."""
    from matplotlib.figure import Figure

    # The figure alone: pyplot would keep state that belongs to the caller's own plots.
    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if grid:
        axes.grid(axis=grid)  # type: ignore[arg-type]
    return figure, axes


def plain(text: str) -> str:
    """Text in one line, of characters that can be shown and written to a file."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def short(text: str, longest: int = _LONGEST) -> str:
    """Plain text of at most so many characters; what is left out is in its middle."""
    text = plain(text)
    if len(text) <= longest:
        return text
    # The end tells names apart as often as the beginning does.
    tail = longest // 3
    return f"{text[: longest - tail - 1]}…{text[-tail:]}"


def label(text: str, longest: int = _LONGEST) -> str:
    """A name in a figure: short, and nothing that matplotlib takes for a formula."""
    return short(text, longest).replace("$", r"\$")


def write_pictures(pictures: Mapping[str, Picture], folder: Path) -> list[Path]:
    """Write each as <name>.png into a folder that exists."""
    files = []
    for name, picture in pictures.items():
        files.append(folder / f"{name}.png")
        with replacing(files[-1]) as temporary:
            temporary.write_bytes(picture.png())
    return files


def _for_the_page(content: bytes, name: str, caption: str) -> str:
    """Matplotlib's SVG document -> an element of HTML, without ids that others may have."""
    root = ElementTree.fromstring(content)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {key.rpartition("}")[2]: text for key, text in element.attrib.items()}
        if element.tag == "g":
            attributes.pop("id", None)  # axes_1 and the like: nothing points at them
        if "id" in attributes:
            attributes["id"] = f"{name}-{attributes['id']}"
        if attributes.get("href", "").startswith("#"):
            attributes["href"] = f"#{name}-{attributes['href'][1:]}"
        if "clip-path" in attributes:
            attributes["clip-path"] = attributes["clip-path"].replace("url(#", f"url(#{name}-")
        if "style" in attributes:
            attributes["style"] = _page_style(attributes["style"], name)
        element.attrib.clear()
        element.attrib.update(attributes)
    root.attrib = {
        **{key: root.attrib[key] for key in ("width", "height", "viewBox")},
        "role": "img", "aria-label": caption,
        # What matplotlib says in a style sheet of its own, which would hold for the whole page.
        "style": "stroke-linejoin: round; stroke-linecap: butt",
    }  # fmt: skip
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in ("style", "metadata")]:
            parent.remove(child)
    return ElementTree.tostring(root, encoding="unicode")


def _page_style(text: str, name: str) -> str:
    for ours, variable in _ON_THE_PAGE.items():
        text = text.replace(ours, variable)
    text = text.replace("url(#", f"url(#{name}-")
    return re.sub(rf"'{_FONT}'[^;]*", "system-ui, Arial, sans-serif", text)
