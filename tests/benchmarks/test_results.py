"""RESULTS.md keeps its prose, and its tables are where the benchmarks are."""

from __future__ import annotations

import pytest

from benchmarks import results
from benchmarks.measuring import Measured


def test_prose_stays_when_tables_are_replaced() -> None:
    begin, end = results.marks("step")
    text = f"# Results\n\nBefore.\n\n{begin}\n\nold\n\n{end}\n\nBehind.\n"
    placed = results.placed(text, "step", "new")
    assert placed == f"# Results\n\nBefore.\n\n{begin}\n\nnew\n\n{end}\n\nBehind.\n"
    assert results.placed(placed, "step", "new") == placed


def test_section_is_added_when_a_benchmark_has_none() -> None:
    begin, end = results.marks("step")
    placed = results.placed("# Results\n\nProse.\n", "step", "new")
    assert placed == f"# Results\n\nProse.\n\n## step\n\n{begin}\n\nnew\n\n{end}\n"


def test_text_is_refused_when_a_mark_has_no_end() -> None:
    with pytest.raises(ValueError, match="step: end"):
        results.placed(results.marks("step")[0], "step", "new")


def test_section_says_where_and_shows_every_table() -> None:
    one = Measured(
        "step", "a step", "ms", False, ["bare"], ["ours"], {"bare": [1.0], "ours": [2.0]}
    )
    text = results.section([one, one], "Some machine.")
    assert text.startswith("Some machine.\n\n| a step (n = 1) | ms | span | x bare |")
    assert text.count("| ours | 2.00 |") == 2


def test_machine_names_hardware_versions_and_date() -> None:
    line = results.machine(threads=1)
    assert "1 thread," in line and "torch 2." in line and line.rstrip(".")[-10:].count("-") == 2
