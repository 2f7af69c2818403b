"""A row of the predictions: what the model says of one image, and the columns that it fills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

PATH, LABEL, INDEX, SCORE, ERROR, FLAG = "path", "label", "index", "score", "error", "flag"


class Column(NamedTuple):
    """A column of the table.

    Args:
        name: Its heading.
        kind: path, label, index, score, error or flag: what its cells are.
        several: Whether a cell holds any number of these.
    """

    name: str
    kind: str
    several: bool = False


@dataclass(frozen=True)
class Layout:
    """What is said of every image.

    Args:
        class_names: In the order of the probabilities.
        several: Whether an image may have any number of classes.
        num_ranks: How many of the likeliest classes are named, from 1 to the number of classes.
        with_truth: Whether the right answer is known.
        abstain_below: Answers with a lower probability are undecided; None for no such column.
    """

    class_names: Sequence[str]
    several: bool
    num_ranks: int
    with_truth: bool
    abstain_below: float | None = None


@dataclass(frozen=True)
class Answer:
    """What the model says of an image.

    Args:
        probabilities: One for each class.
        order: Class indices, the likeliest first.
        chosen: Those that were predicted, the likeliest first.
    """

    probabilities: Sequence[float]
    order: Sequence[int]
    chosen: Sequence[int]


@dataclass(frozen=True)
class Row:
    """One image.

    Args:
        path: As the data set names it.
        file: The file itself; None where the image has none.
        answer: None where the image could not be decoded.
        error: Why it could not; else empty.
        target: Indices of the true classes; empty where they are not known.
    """

    path: str
    file: str | None
    answer: Answer | None
    error: str = ""
    target: Sequence[int] | None = None

    def undecided(self, layout: Layout) -> bool | None:
        """Whether the answer is too uncertain; None where there is none, or no limit.

        Of one label its probability counts, as the row shows it; of several that of the class of
        which the model is least sure, present or absent.
        """
        if self.answer is None or layout.abstain_below is None:
            return None
        scores = self.answer.probabilities
        if layout.several:
            sure = min(max(score, 1.0 - score) for score in scores)
        else:
            sure = scores[self.answer.chosen[0]]
        return not sure >= layout.abstain_below  # nor is what is not a number

    def correct(self) -> bool | None:
        """Whether the answer is the truth; None where one of the two is not known."""
        if self.answer is None or self.target is None:
            return None
        return sorted(self.answer.chosen) == list(self.target)


def columns_of(layout: Layout) -> list[Column]:
    """The columns, in the order of the table; images of several labels have no ranking."""
    several = layout.several
    columns = [
        Column("path", PATH),
        Column("label", LABEL, several),
        Column("index", INDEX, several),
        Column("score", SCORE, several),
    ]
    for rank in range(2, 1 if several else layout.num_ranks + 1):
        columns += [Column(f"label_{rank}", LABEL), Column(f"score_{rank}", SCORE)]
    columns += [Column(f"prob_{name}", SCORE) for name in layout.class_names]
    columns.append(Column("error", ERROR))
    if layout.with_truth:
        columns += [Column("target", INDEX, several), Column("correct", FLAG)]
    if layout.abstain_below is not None:
        columns.append(Column("undecided", FLAG))
    return columns


def cells_of(row: Row, layout: Layout) -> list[Any]:
    """A value for each column, of the column's kind; None where there is nothing to say."""
    truth: list[Any] = []
    if layout.with_truth:
        target = row.target
        if target is not None and not layout.several:
            target = target[0]  # type: ignore[assignment]
        truth = [target, row.correct()]
    undecided = [] if layout.abstain_below is None else [row.undecided(layout)]
    return [row.path, *_answer_cells(row.answer, layout), row.error or None, *truth, *undecided]


def _answer_cells(answer: Answer | None, layout: Layout) -> list[Any]:
    """The cells from label to the last probability."""
    names = layout.class_names
    if answer is None:
        ranks = 0 if layout.several else layout.num_ranks - 1
        return [None] * (3 + 2 * ranks + len(names))
    scores, chosen = answer.probabilities, answer.chosen
    if layout.several:
        labels = [names[index] for index in chosen]
        return [labels, list(chosen), [scores[index] for index in chosen], *scores]
    (best,) = chosen
    cells: list[Any] = [names[best], best, scores[best]]
    others = [index for index in answer.order if index != best]
    for index in others[: layout.num_ranks - 1]:
        cells += [names[index], scores[index]]
    return [*cells, *scores]
