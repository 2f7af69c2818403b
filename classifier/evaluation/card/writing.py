"""README.md of a run folder: a model card as the Hugging Face Hub reads it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from classifier.evaluation.card.facts import STAGES, CardFacts, StageFacts
from classifier.evaluation.card.markdown import block, escaped, facts, folded, one_line, table
from classifier.evaluation.card.metadata import metadata
from classifier.evaluation.card.training import training_facts, weights_facts
from classifier.evaluation.page import thresholds_in_words
from classifier.evaluation.results import Estimate, Evaluation
from classifier.files import write_text
from classifier.masking import shareable, shareable_yaml

CARD = "README.md"
_MOST_NAMES = 30  # classes in a sentence
_LONG_TABLE = 40  # rows that are folded away
_FEW_IMAGES = 20  # of a class in train, below which a reader is told
_OWN_DATA = "classifier.ImageDataModule"

_TO_FILL_IN = """\
> **To be filled in by the author of this model.** Nobody has said yet:
>
> - what it is meant for, and what it must not be used for;
> - where the images come from, who labelled them, and under which licence they are;
> - under which licence the model is (`license:` at the top of this file);
> - who is affected when it is wrong, and for which groups of images it was never tried."""


def write_card(
    folder: Path,
    *,
    checkpoint: Path,
    config: Mapping[str, Any],
    evaluations: Mapping[str, Evaluation],
    stages: Mapping[str, StageFacts],
    environment: Mapping[str, Any] | None = None,
    fingerprint: str | None = None,
) -> Path:
    """Write the card of a run.

    Args:
        folder: Of the run.
        checkpoint: The file that the run stands for; the evaluations are of it.
        config: The resolved configuration, as plain data.
        evaluations: By stage: validation, test.
        stages: Of `stage_facts`.
        environment: The content of environment.json.
        fingerprint: Of the data.

    Returns:
        The file.
    """
    from classifier.checkpoints import load_checkpoint

    inside = checkpoint.resolve().is_relative_to(folder.resolve())
    shown = checkpoint.resolve().relative_to(folder.resolve()) if inside else checkpoint.name
    content = make_card(
        CardFacts(
            load_checkpoint(checkpoint), Path(shown).as_posix(), config, evaluations, stages,
            environment, fingerprint,
        )
    )  # fmt: skip
    file = folder / CARD
    write_text(file, content)
    return file


def make_card(card: CardFacts) -> str:
    """The card as text: metadata for the Hub, then Markdown for people."""
    from huggingface_hub import ModelCard

    title = one_line(card.config.get("custom_folder_name") or "image classifier")
    head = metadata(
        title, card.config, card.saved, card.evaluations, several=card.several
    )  # fmt: skip
    if card.usage:
        head.library_name = "transformers"
    parts = [
        f"# {escaped(title)}",
        _introduction(card),
        "## The model",
        facts(weights_facts(card.checkpoint, card.saved, card.config, card.checkpoint_path)),
        "## Metrics",
        *_metrics(card),
        "## Data",
        *_data(card),
        "## Intended use and limits",
        _TO_FILL_IN,
        "What is known without the author:",
        "\n".join(f"- {limit}" for limit in _limits(card)),
        "## How to use it",
        *_usage(card),
        "## Training",
        facts(training_facts(card.config)),
        folded("The whole configuration", block(shareable_yaml(card.config), "yaml")),
        *_environment(card.environment),
    ]
    body = "\n\n".join(part for part in parts if part)
    return str(ModelCard(f"---\n{head.to_yaml()}\n---\n\n{body}\n"))


def _introduction(card: CardFacts) -> str:
    names = card.class_names
    shown = ", ".join(escaped(name) for name in names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    kind = "any number of these classes to" if card.several else "one of these classes to"
    if not names:
        return "An image classifier."
    return f"An image classifier that gives {kind} an image: {shown}{more}."


def _metrics(card: CardFacts) -> Iterable[str]:
    if not card.evaluations:
        yield "Not evaluated: this card was made from the checkpoint alone."
        return
    for stage, evaluation in card.evaluations.items():
        number = len(evaluation.predictions)
        failed = len(evaluation.predictions.failed)
        without = f", without {failed} that could not be decoded" if failed else ""
        yield f"### {escaped(stage.capitalize())}: {number} images{without}"
        estimates = evaluation.estimates.items()
        yield table(
            ["Metric", "Value", "95 % interval"],
            [(escaped(name), f"{one.value:.4f}", _interval(one)) for name, one in estimates],
        )
        if evaluation.absent:
            absent = ", ".join(escaped(name) for name in evaluation.absent)
            yield f"No images of {absent}: not in any average."
        if "temperature" in evaluation.calibration:
            yield _calibration(evaluation.calibration)
    tuned = thresholds_in_words(next(iter(card.evaluations.values())).calibration)
    if tuned:
        yield escaped(tuned)
    yield (
        "Precision, recall and f1\\_score are means over the classes that have images, unless the "
        "name says otherwise. An interval says how far a figure may be off because it was these "
        "images that were looked at, not how other kinds of images would do."
    )
    monitor = _monitor(card.checkpoint)
    if "validation" in card.evaluations and monitor is not None:
        yield (
            f"The checkpoint was chosen among epochs by {escaped(monitor)}: the figures of the "
            "validation images are a little too good."
        )


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{estimate.low:.4f} to {estimate.high:.4f}"


def _calibration(calibration: Mapping[str, Any]) -> str:
    figures = [
        f"{text} {float(calibration[name]):.4f}"
        for name, text in (("ece_before", "before"), ("ece_after", "after"))
        if calibration.get(name) is not None
    ]
    error = "; expected calibration error on the images that it was fitted to: "
    error = f"{error}{', '.join(figures)}" if figures else ""
    return f"Logits are divided by a temperature of {calibration['temperature']:.4f}{error}."


def _monitor(checkpoint: Mapping[str, Any]) -> str | None:
    """The validation metric that chose a checkpoint."""
    states = (checkpoint.get("callbacks") or {}).items()
    monitors = (s.get("monitor") for name, s in states if name.startswith("ModelCheckpoint"))
    return next((m for m in monitors if m and str(m).startswith("validation")), None)


def _data(card: CardFacts) -> Iterable[str]:
    if not card.stages:
        yield "Not known: this card was made without the data."
    else:
        rows = [
            (escaped(name), *(str(stage.class_counts[index]) for stage in card.stages.values()))
            for index, name in enumerate(card.class_names)
        ]
        whole = ("all images", *(str(stage.num_images) for stage in card.stages.values()))
        counts = table(["Class", *card.stages], [*rows, whole])
        yield folded("Images of each class", counts) if len(rows) > _LONG_TABLE else counts
    split = _split(card.config, card.stages)
    if split:
        yield split
    if card.fingerprint is not None:
        yield f"Fingerprint of the data: {escaped(card.fingerprint)}."


def _split(config: Mapping[str, Any], stages: Mapping[str, StageFacts]) -> str:
    """How validation and test came to be; empty where that is not known."""
    data = (config.get("data") or {}).get("init_args") or {}
    given = data.get("dataset_classes") or {}
    seed = data.get("seed") if data.get("seed") is not None else config.get("seed_everything")
    sentences = []
    for stage in ("validation", "test"):
        name = STAGES[stage]
        share = data.get(f"{name}_fraction")
        if given.get(name) is not None:
            sentences.append(f"The {stage} images are a data set of their own.")
        elif name == "val" and data.get("folds"):
            sentences.append(
                f"The validation images are part {data.get('fold', 0)}, counted from 0, of "
                f"{data['folds']} parts of the training data, stratified, seed {escaped(seed)}."
            )
        elif share and given.get("train") is not None and (stage in stages or not stages):
            sentences.append(
                f"The {stage} images were held out of the training data: a fraction of "
                f"{escaped(share)}, stratified, seed {escaped(seed)}."
            )
    if data.get("group_pattern"):
        sentences.append("Images of one group stayed on one side of the split.")
    if data.get("max_samples"):
        sentences.append(f"Training used at most {escaped(data['max_samples'])} images.")
    return " ".join(sentences)


def _limits(card: CardFacts) -> Iterable[str]:
    if card.several:
        yield "It knows the classes above and no others."
    else:
        yield "It gives one of its classes to every image, also to one that shows none of them."
    yield "Its figures hold for images like those that it was evaluated on."
    train = card.stages.get("train")
    if train is not None:
        pairs = zip(card.class_names, train.class_counts, strict=True)
        few = [f"{escaped(name)} ({n})" for name, n in pairs if n < _FEW_IMAGES]
        shown = ", ".join(few[:_MOST_NAMES]) + (", ..." if len(few) > _MOST_NAMES else "")
        if few:
            yield f"Classes with fewer than {_FEW_IMAGES} training images: {shown}."
    abstain = next((e.abstain_below for e in card.evaluations.values()), None)
    if abstain is not None:
        yield f"Answers with a probability below {abstain:g} are marked as undecided."


def _usage(card: CardFacts) -> Iterable[str]:
    if card.usage:
        yield block(card.usage, "python")
        return
    path = shlex.quote(card.checkpoint_path)
    yield (
        "With the program that trained it, in the folder of this file. The checkpoint carries "
        "class names, architecture and preprocessing, and is read without running code:"
    )
    commands = [f"python main.py --predict IMAGE_OR_FOLDER --ckpt_path {path}"]
    if not card.several and str((card.config.get("data") or {}).get("class_path")) == _OWN_DATA:
        commands.append(f"python main.py --test --ckpt_path {path} \\\n{_other_test(card.config)}")
    yield block("\n".join(commands), "bash")


def _other_test(config: Mapping[str, Any]) -> str:
    """Options that test on images of the reader's own."""
    key = "--data.init_args.dataset_classes.test"
    options = [
        f"{key}.class_path FolderImageDataset", f"{key}.init_args.root FOLDER_OF_CLASS_FOLDERS",
    ]  # fmt: skip
    if config["data"]["init_args"].get("test_fraction"):
        options.append("--data.init_args.test_fraction null")
    return " \\\n".join(f"  {option}" for option in options)


def _environment(environment: Mapping[str, Any] | None) -> Iterable[str]:
    if not environment:
        return
    rows = [
        (escaped(name), escaped(str(value)))
        for name, value in shareable(environment).items()
        if name != "packages" and value not in (None, [])
    ]
    packages = environment.get("packages") or {}
    rows += [(escaped(name), escaped(version)) for name, version in packages.items() if version]
    yield "## Environment"
    yield facts(rows)
