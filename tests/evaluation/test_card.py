"""The model card: what it says is so, and what users named does not become markup."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from classifier import ImageDataModule, main
from classifier.checkpoints import load_checkpoint
from classifier.evaluation.card.facts import CardFacts, StageFacts, stage_facts
from classifier.evaluation.card.writing import make_card, write_card
from classifier.evaluation.metrics import evaluate
from classifier.evaluation.results import Predictions
from tests.evaluation.test_metrics import labels, predictions

NAMES = ["blue", "green", "red"]
NASTY = [
    "a|b", "<script>alert(1)</script>", "[x](http://evil.example)", "`code`", "# head", "_x_ *y*",
    "two\nlines", "---", "\udcff.bytes", "\u202etxt", "&lt;", "| --- |", "```", "$x$", "~~old~~",
]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(trained: Path) -> dict[str, Any]:
    return load_checkpoint(trained / "checkpoints" / "best.ckpt")


def of_classes(found: Predictions, names: list[str]) -> Predictions:
    return Predictions(
        tuple(names), found.task, found.paths, found.probabilities, found.targets, found.predicted,
        [("broken.jpg", "truncated")],
    )  # fmt: skip


def renamed(checkpoint: dict[str, Any], names: list[str], task: str = "multiclass") -> Any:
    saved = {**checkpoint["image_classifier"], "class_names": names, "task": task}
    return {**checkpoint, "image_classifier": saved}


def parsed(card: str) -> list[Token]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(ModelCard(card).text)


def head_of(card: str) -> dict[str, Any]:
    """The metadata, as the Hub's own library reads it."""
    found: dict[str, Any] = ModelCard(card).data.to_dict()  # type: ignore[no-untyped-call]
    return found


def rows_below(tokens: list[Token], heading: str) -> list[list[str]]:
    """The cells, as a reader sees them, of the first table below a heading."""
    texts = [token.content if token.type == "inline" else "" for token in tokens]
    start = texts.index(heading)
    rows: list[list[str]] = []
    for index in range(start, len(tokens)):
        if tokens[index].type == "tr_open":
            rows.append([])
        elif tokens[index].type in ("td_open", "th_open"):
            children = tokens[index + 1].children or []
            assert {child.type for child in children} <= {"text", "text_special"}
            rows[-1].append("".join(child.content for child in children))
        elif tokens[index].type == "table_close":
            break
    return rows


def test_card_says_what_was_found_in_numbers(checkpoint: dict[str, Any]) -> None:
    judged = {
        stage: evaluate(of_classes(predictions(40 + seed, 3, seed), NAMES), stage)
        for seed, stage in enumerate(("validation", "test"))
    }
    stages = {"train": StageFacts(24, [8, 8, 8]), "validation": StageFacts(41, [20, 11, 10])}
    card = make_card(
        CardFacts(
            checkpoint, "checkpoints/best.ckpt", checkpoint["config"], judged, stages,
            {"python": "3.11", "packages": {"torch": "2.15.0", "peft": None}}, "abc123",
        )
    )  # fmt: skip
    tokens = parsed(card)
    for seed, stage in enumerate(("validation", "test")):
        heading = f"{stage.capitalize()}: {40 + seed} images, without 1 that could not be decoded"
        rows = rows_below(tokens, heading)
        estimates = judged[stage].estimates
        assert [row[0] for row in rows[1:]] == list(estimates)
        for name, value, interval in rows[1:]:
            found = estimates[name]
            assert value == f"{found.value:.4f}"
            assert interval == f"{found.low:.4f} to {found.high:.4f}"
    assert rows_below(tokens, "Data") == [
        ["Class", "train", "validation"], ["blue", "8", "20"], ["green", "8", "11"],
        ["red", "8", "10"], ["all images", "24", "41"],
    ]  # fmt: skip
    assert dict(rows_below(tokens, "Environment")[1:]) == {"python": "3.11", "torch": "2.15.0"}
    model = dict(rows_below(tokens, "The model")[1:])
    assert model["Encoder"] == "timm/test_resnet"
    assert model["Began from"] == "random weights"
    assert model["Optimizer steps"] == str(checkpoint["global_step"])
    assert dict(rows_below(tokens, "Training")[1:])["Optimizer"] == "AdamW, lr 0.003"
    assert "Fingerprint of the data: abc123." in card
    assert "a fraction of 0.2, stratified, seed 7" in card
    assert "To be filled in by the author" in card


def test_metadata_is_what_the_hub_reads(checkpoint: dict[str, Any]) -> None:
    judged = evaluate(of_classes(predictions(40, 3), NAMES), "test")
    card = make_card(CardFacts(checkpoint, "best.ckpt", checkpoint["config"], {"test": judged}))
    head = head_of(card)
    assert head["pipeline_tag"] == "image-classification"
    assert head["library_name"] == "pytorch-lightning"
    assert "license" not in head and "base_model" not in head and "datasets" not in head
    assert head["model-index"][0]["name"] == "colours"
    results = ModelCard(card).data["eval_results"]
    assert {r.metric_name: r.metric_value for r in results} == {
        name: round(estimate.value, 6) for name, estimate in judged.estimates.items()
    }
    assert {(r.dataset_type, r.dataset_name, r.dataset_split) for r in results} == {
        ("imagefolder", "test", "test")
    }
    assert {"accuracy", "f1"} <= set(head["metrics"])


def test_names_of_users_stay_text(checkpoint: dict[str, Any]) -> None:
    number = len(NASTY)
    judged = evaluate(of_classes(predictions(60, number, absent=2), NASTY), "test")
    config = {**checkpoint["config"], "custom_folder_name": "x\n---\nlicense: mit\n# <b>|`"}
    config["data"] = {"class_path": "my.Data", "init_args": {"note": "```\n</details>\n# out"}}
    stages = {"train": StageFacts(number, [1] * number)}
    card = make_card(
        CardFacts(renamed(checkpoint, NASTY), "my $(model).ckpt", config, {"test": judged}, stages)
    )
    assert "license" not in head_of(card)
    tokens = parsed(card)
    kinds = {child.type for token in tokens for child in token.children or []}
    assert kinds <= {
        "text",
        "text_special",
        "softbreak",
        "code_inline",
        "strong_open",
        "strong_close",
    }
    html = [token.content.strip() for token in tokens if token.type == "html_block"]
    assert set(html) == {
        "<details>\n<summary>The whole configuration</summary>", "</details>",
    }  # fmt: skip
    headings = [
        tokens[index + 1].content
        for index, token in enumerate(tokens)
        if token.type == "heading_open"
    ]
    assert headings[1:] == [
        "The model", "Metrics", "Test: 60 images, without 1 that could not be decoded", "Data",
        "Intended use and limits", "How to use it", "Training",
    ]  # fmt: skip
    shown = [row[0] for row in rows_below(tokens, "Data")[1:-1]]
    assert shown == [
        "two lines" if "two" in name else "?.bytes" if "bytes" in name else name.strip("\u202e")
        for name in NASTY
    ]
    fenced = next(token for token in tokens if token.info == "yaml")
    assert yaml.safe_load(fenced.content)["data"] == config["data"]
    assert "--ckpt_path 'my $(model).ckpt'" in card


def test_card_of_several_labels_says_so(checkpoint: dict[str, Any]) -> None:
    judged = evaluate(of_classes(labels(50, 3), NAMES), "validation")
    saved = renamed(checkpoint, NAMES, "multilabel")
    card = make_card(CardFacts(saved, "best.ckpt", checkpoint["config"], {"validation": judged}))
    assert "any number of these classes" in card
    assert "multi-label" in head_of(card)["tags"]
    assert "one of its classes to every image" not in card


@pytest.mark.parametrize(
    ("arguments", "base"),
    [
        ({"model_name": "timm/test_resnet", "pretrained": True}, "timm/test_resnet.r160_in1k"),
        ({"model_name": "google/vit-base", "pretrained": True}, "google/vit-base"),
        ({"model_name": "google/vit-base", "pretrained": False}, None),
        ({"model_name": "torchvision/resnet18", "pretrained": True}, None),
        ({"model_name": "my.package.Net", "pretrained": True}, None),
        ({"model_name": "weights/folder", "pretrained": True}, None),
    ],
)
def test_base_model_is_named_where_the_hub_has_it(
    checkpoint: dict[str, Any], workplace: Path, arguments: dict[str, Any], base: str | None
) -> None:
    (workplace / "weights" / "folder").mkdir(parents=True)
    config = {**checkpoint["config"], "model": {"class_path": "x", "init_args": arguments}}
    card = make_card(CardFacts(checkpoint, "best.ckpt", config))
    assert head_of(card).get("base_model") == base
    again = {**config, "only_weights_load": True, "ckpt_path": "/elsewhere/best.ckpt"}
    card = make_card(CardFacts(checkpoint, "best.ckpt", again))
    assert "base_model" not in head_of(card)
    assert "the weights of another checkpoint" in card


def test_data_sets_of_the_hub_are_named(checkpoint: dict[str, Any]) -> None:
    def dataset(name: str) -> dict[str, Any]:
        return {"class_path": "classifier.HuggingFaceDataset", "init_args": {"name": name}}

    datasets = {"train": dataset("uoft-cs/cifar10"), "test": dataset("imagefolder")}
    config = {**checkpoint["config"], "data": {"init_args": {"dataset_classes": datasets}}}
    judged = evaluate(of_classes(predictions(40, 3), NAMES), "validation")
    card = make_card(CardFacts(checkpoint, "best.ckpt", config, {"validation": judged}))
    head = head_of(card)
    assert head["datasets"] == ["uoft-cs/cifar10"]
    assert head["model-index"][0]["results"][0]["dataset"]["type"] == "uoft-cs/cifar10"
    assert "The test images are a data set of their own." in card


def test_homes_and_secrets_are_not_shown(checkpoint: dict[str, Any]) -> None:
    config = {
        **checkpoint["config"],
        "trainer": {"logger": {"init_args": {"api_key": "abc123", "url": "https://me:pw@host/x"}}},
        "data": {"init_args": {"cache_dir": "/home/alice/cache"}},
    }
    card = make_card(CardFacts(checkpoint, "best.ckpt", config))
    assert not any(word in card for word in ("alice", "abc123", "me:pw"))
    assert "cache_dir: ~/cache" in card


def test_configuration_without_secrets_is_yaml_still(checkpoint: dict[str, Any]) -> None:
    logger = {"api_key": "abc123 correct, horse " * 9, "passwd": "abc123\n\nabc123\n", "mode": "a"}
    config = {
        **checkpoint["config"],
        "trainer": {"logger": {"init_args": logger}},
        "model": {"init_args": {"loss_config": {"name": "Own", "password": "abc123 horse, x"}}},
    }
    card = make_card(CardFacts(checkpoint, "best.ckpt", config))
    assert "abc123" not in card and "horse" not in card
    shown = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
    assert shown["trainer"]["logger"]["init_args"] == {
        "api_key": "removed", "passwd": "removed", "mode": "a"
    }  # fmt: skip


@pytest.mark.parametrize("held_out", [False, True])
def test_commands_of_the_card_of_a_run_work_in_its_folder(
    trained: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, held_out: bool
) -> None:
    folder = workplace / "run"
    shutil.copytree(trained, folder)
    best = folder / "checkpoints" / "best.ckpt"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    if held_out:
        config["data"]["init_args"] |= {"test_fraction": 0.2}
        config["data"]["init_args"]["dataset_classes"].pop("test")
        torch.save({**load_checkpoint(best), "config": config}, best)
    file = write_card(
        folder, checkpoint=best, config=config, evaluations={}, stages={},
        environment=json.loads((folder / "environment.json").read_text()),
    )  # fmt: skip
    assert file == folder / "README.md"
    text = file.read_text(encoding="utf-8")
    assert "Not evaluated" in text
    (code,) = [token.content for token in parsed(text) if token.info == "bash"]
    images = trained.parents[2] / "images" / "test"
    monkeypatch.chdir(folder)
    for line in code.replace("\\\n", "").splitlines():
        words = shlex.split(line)
        assert words[:2] == ["python", "main.py"]
        places = ("IMAGE_OR_FOLDER", "FOLDER_OF_CLASS_FOLDERS")
        result = main([str(images) if word in places else word for word in words[2:]])
        assert result is not None and result.num_images == 12


def test_stage_facts_count_what_each_stage_sees(images: Path) -> None:
    from classifier import FolderImageDataset

    data = ImageDataModule(
        {"train": FolderImageDataset(str(images / "train")),
         "test": FolderImageDataset(str(images / "test"))},
        seed=1,
    )  # fmt: skip
    assert stage_facts(data) == {}
    data.setup("fit")
    assert stage_facts(data) == {
        "train": StageFacts(24, [8, 8, 8]),
        "validation": StageFacts(6, [2, 2, 2]),
        "test": StageFacts(12, [4, 4, 4]),
    }
    assert stage_facts(object()) == {}
