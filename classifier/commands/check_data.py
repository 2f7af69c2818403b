"""--check looks at all data: what it found, on the terminal, in a report, and as an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from classifier.data.checking import Entry, inspect
from classifier.data.findings import ERROR, Finding, findings_of, one_line
from classifier.data.report import notes_of, sizes_of, summary, write_report
from classifier.data.rules import DATASETS
from classifier.data.samples import draw_samples
from classifier.errors import ConfigError, RunError
from classifier.preprocessing import Preprocessing
from classifier.runs import Run
from classifier.terminal import show

_FEW = 3  # items of a finding on the terminal; the page has more, data.json all


def check_data(
    data: Any,
    entries: Sequence[Entry],
    run: Run,
    title: str,
    strict: bool,
    missing: ConfigError | None = None,
) -> None:
    """Look at every image, write the report, and refuse what training would refuse.

    Args:
        data: An ImageDataModule after its set-up.
        entries: Its images.
        run: Whose folder gets the report.
        title: Name of the experiment.
        strict: Refuse every finding, not only errors.
        missing: What is wrong with the model's weights.

    Raises:
        ConfigError: weights that cannot be had, images that training would refuse, or with `strict`
            any finding.
    """
    preprocessing = data.preprocessing or Preprocessing()
    facts = inspect(entries, data.class_names, _input_size(data, preprocessing))
    findings = findings_of(facts, data.rules.on_bad_image)
    samples = draw_samples(data.stage("train"), facts, preprocessing)
    page = write_report(facts, findings, run.folder / "report", title, samples).as_posix()
    run.result.num_images = len(entries)
    run.result.num_errors = sum(file.error is not None for _, file in facts.seen())
    sizes = sizes_of(facts)
    if sizes:
        ranges = [f"{name} {size['min']} to {size['max']}" for name, size in sizes.items()]
        show(f"sizes in pixels: {', '.join(ranges)}")
    for finding in findings:
        show(f"{finding.severity}: {finding.message}")
        for line in _first(finding):
            show(f"  {line}")
    for note in notes_of(facts):
        show(note)
    show(summary(facts, findings))
    show(f"report: {page}")
    given = {name for name, dataset in data.dataset_classes.items() if dataset is not None}
    _refuse(findings, given, strict, page, missing)


def _input_size(data: Any, preprocessing: Preprocessing) -> tuple[int, int]:
    """What training's own pipeline gives; the encoder's size when its first image is broken."""
    try:
        height, width = data.stage("train")[0][0].shape[-2:]
    except RunError:
        return preprocessing.size
    return int(height), int(width)


def _first(finding: Finding) -> list[str]:
    lines = [item.text() for item in finding.items[:_FEW]]
    more = len(finding.items) - _FEW
    return [*lines, f"... and {more} more"] if more > 0 else lines


def _refuse(
    findings: Sequence[Finding],
    given: set[str],
    strict: bool,
    page: str,
    missing: ConfigError | None,
) -> None:
    errors = [
        ConfigError(
            f"{DATASETS}.{finding.stage if finding.stage in given else 'train'}",
            f"{finding.message} ({'; '.join(_first(finding))})",
            remedy=f"Replace or remove what is named in {one_line(page)}",
        )
        for finding in findings
        if finding.severity == ERROR
    ]
    errors += [missing] if missing is not None else []
    if errors:
        raise ConfigError.together(errors)
    if strict and findings:
        raise ConfigError(
            "--strict", f"the data has {len(findings)} finding{'s' * (len(findings) > 1)} "
            f"({'; '.join(finding.message for finding in findings)})",
            remedy=f"Correct what is named in {one_line(page)}, or leave --strict out",
        )  # fmt: skip
