"""Every example of docs/extending.md is run as it stands there, on a few small images."""

from __future__ import annotations

import re
import runpy
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from timm.optim import Lion

import classifier
from classifier import FolderImageDataset, main
from classifier.config import check_trusted, parse_yaml
from classifier.data import decoding
from classifier.errors import ConfigError
from classifier.trees import merge
from classifier.tuning.distributions import parse_space
from tests.conftest import COLOURS, SIZE, configuration

PAGE = (Path(__file__).parents[1] / "docs/extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
OWN_FILE = re.compile(r"# (my_\w+)\.py\n")
OWN_LINE = re.compile(r"# (classifier/[\w/]+)\.py, (?:in (\w+)|at its end|before \w+)\n")


def blocks(section: str, language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(SECTIONS[section]) if name == language]


class Page(NamedTuple):
    """A section of the page, its files written and its lines added; `configs` are its YAML."""

    configs: list[dict[str, Any]]
    calls: Callable[[str], list[Any]]

    def run(self, config: dict[str, Any], number: int = 0, *words: str) -> Any:
        content = merge(config, self.configs[number])
        Path("cfg.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return main(["--config", "cfg.yaml", *words])


@pytest.fixture
def follow(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Page]]:
    """Do what a section of the page says."""
    monkeypatch.syspath_prepend(workplace)
    before = set(sys.modules)

    def read(section: str) -> Page:
        namespaces: dict[str, dict[str, Any]] = {}
        for text in blocks(section, "python"):
            if own := OWN_FILE.match(text):
                (workplace / f"{own[1]}.py").write_text(text)
                continue
            line = OWN_LINE.match(text)
            assert line is not None, text
            module = import_module(line[1].replace("/", "."))
            namespace = namespaces.setdefault(line[1], dict(vars(module)))
            if line[2] is None:
                exec(compile(text, "extending.md", "exec"), namespace)
            else:
                table = getattr(module, line[2])
                add(line[2], table, table | eval(f"{{{text}}}", namespace), monkeypatch)
        return Page([parse_yaml(text) for text in blocks(section, "yaml")], calls)

    def calls(path: str) -> list[Any]:
        """What a method, named by its import path, returns from now on."""
        module, cls, method = path.rsplit(".", 2)
        owner = getattr(import_module(module), cls)
        real, returned = getattr(owner, method), []

        def spy(*args: Any, **arguments: Any) -> Any:
            returned.append(real(*args, **arguments))
            return returned[-1]

        monkeypatch.setattr(owner, method, spy)
        return returned

    yield read
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def add(name: str, table: Any, longer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all modules see a line more in a table."""
    for module in [found for key, found in sys.modules.items() if key.startswith("classifier.")]:
        if vars(module).get(name) is table:
            monkeypatch.setattr(module, name, longer)


@pytest.fixture
def short(images: Path) -> dict[str, Any]:
    """A configuration of one epoch of two steps."""
    content = configuration(images, max_epochs=1)
    content["trainer"] |= {"limit_train_batches": 2, "enable_checkpointing": False}
    return content


def test_page_has_a_section_of_few_lines_for_each_row_of_its_table() -> None:
    links = re.findall(r"^\| \[(.+?)\]\(#(.+?)\)", PAGE, flags=re.MULTILINE)
    assert [name for name, _ in links] == list(SECTIONS)
    assert [link for _, link in links] == [name.lower().replace(" ", "-") for name in SECTIONS]
    assert len(SECTIONS) == 10
    for _, text in BLOCK.findall(PAGE):
        code = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert len(code) <= 12, text


def test_files_that_the_page_names_exist() -> None:
    for file in re.findall(r"classifier/[\w/]+\.py", PAGE):
        assert Path(classifier.__file__).parents[1].joinpath(file).is_file(), file


def test_loss_of_the_page_trains_and_its_checkpoint_needs_a_word(follow: Any, short: Any) -> None:
    page = follow("Loss")
    values = page.calls("my_losses.PolyLoss.forward")
    short["trainer"]["enable_checkpointing"] = True
    result = page.run(short)
    assert result.metrics["train_loss"] == pytest.approx(
        float(torch.stack(values[-2:]).detach().mean())
    )
    words = ["--test", "--ckpt_path", result.output_dir]
    with pytest.raises(ConfigError, match="add --allow_module my_losses"):
        main(words)
    for admitted in (["--allow_module", "my_losses"], ["--config", "cfg.yaml"]):
        tested = main([*words, *admitted])
        assert tested is not None and tested.status == "completed"


def test_file_without_its_folder_looks_like_an_import_path_in_a_checkpoint() -> None:
    own = frozenset({"my_encoders"})
    check_trusted({"model": {"init_args": {"model_args": {"file": "./photos.zip"}}}}, own, "x.ckpt")
    with pytest.raises(ConfigError, match=r"got 'photos\.zip'"):
        check_trusted({"model": {"init_args": {"model_args": {"file": "photos.zip"}}}}, own, "x")


@pytest.mark.parametrize(
    ("section", "number", "method"),
    [("Optimizer", 1, "my_optimizers.SignDescent.step"),
     ("Schedule", 0, "torch.optim.lr_scheduler.PolynomialLR.get_lr"),
     ("Schedule", 1, "my_schedules.InverseSquareRoot.get_lr"),
     ("Metric", 0, "my_metrics.ReciprocalRank.update"),
     ("Augmentation preset", 0, "albumentations.ToGray.__call__")],
)  # fmt: skip
def test_class_of_the_page_is_used_when_the_yaml_names_it(
    follow: Any, short: Any, section: str, number: int, method: str
) -> None:
    page = follow(section)
    returned = page.calls(method)
    result = page.run(short, number)
    assert result.status == "completed" and returned
    if section == "Metric":
        assert 1 / len(COLOURS) <= result.metrics["validation_reciprocal_rank"] <= 1
        assert "validation_matthews_corr_coef" in result.metrics


def test_optimizer_of_timm_is_used_by_its_name(
    follow: Any, short: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    real = Lion.step

    def step(self: Any, closure: Any = None) -> Any:
        seen.extend(group["lr"] for group in self.param_groups)
        return real(self, closure)

    monkeypatch.setattr(Lion, "step", step)
    follow("Optimizer").run(short)
    assert set(seen) == {1e-4}


def test_data_source_of_the_page_gives_the_images_of_a_zip_file(
    follow: Any, short: Any, images: Path
) -> None:
    page = follow("Data source")
    files = sorted((images / "train").rglob("*.png"))
    with zipfile.ZipFile("photos.zip", "w") as archive:
        archive.mkdir("red/")
        for file in files:
            archive.write(file, file.relative_to(images / "train").as_posix())
    decoded = page.calls("my_data.ZipImageDataset.load")
    result = page.run(short)
    assert result.status == "completed"
    pixels = {np.asarray(Image.open(file)).tobytes() for file in files}
    assert decoded and {image.tobytes() for image in decoded} <= pixels


def test_format_of_the_page_is_read_as_any_other(
    follow: Any, short: Any, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.init()  # what Pillow registers later would be forgotten with the copies
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    follow("Image format")
    stored = {}
    for file in (images / "train").rglob("*.png"):
        stored[file.with_suffix(".npy")] = np.asarray(Image.open(file))
        np.save(file.with_suffix(".npy"), stored[file.with_suffix(".npy")])
        file.unlink()
    dataset = FolderImageDataset(str(images / "train"))
    assert {dataset.file(index) for index in range(len(dataset))} == set(stored)
    np.testing.assert_array_equal(dataset.load(0), stored[dataset.file(0)])
    Path("cfg.yaml").write_text(yaml.safe_dump(short))
    checked = main(["--check", "--config", "cfg.yaml"])
    assert checked is not None and checked.status == "completed"
    (images / "train/red/00.npy").write_bytes(b"\x93NUMPY damaged")
    with pytest.raises(decoding.BadImageError):
        decoding.decode_image(images / "train/red/00.npy")


def test_preset_of_the_page_is_its_list_by_name(follow: Any, short: Any, capsys: Any) -> None:
    page = follow("Augmentation preset")
    shown = []
    for number in range(2):
        assert page.run(short, number, "--print_config") is None
        resolved = yaml.safe_load(capsys.readouterr().out)
        shown.append(resolved["data"]["init_args"]["augmentations"]["train"])
    assert len(shown[0]) == 2 and shown[0] == shown[1]


def test_distribution_of_the_page_is_searched(follow: Any, short: Any) -> None:
    page = follow("Search distribution")
    space = parse_space(page.configs[0]["optuna"]["search_spaces"])
    assert space.parameters["data.init_args.batch_size"].edges() == [4, 8, 16]
    checked = page.run(short, 0, "--check")
    assert checked.status == "completed"
    with pytest.raises(ConfigError, match=r"base: is missing. powers needs base"):
        parse_space({"data.init_args.batch_size": {"distribution": "powers", "low": 1, "high": 2}})


def test_script_of_the_page_times_a_checkpoint(
    follow: Any, trained: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow("Run mode")
    monkeypatch.setattr(sys, "argv", ["", str(trained / "checkpoints/best.ckpt")])
    runpy.run_path("my_benchmark.py")
    assert re.fullmatch(r"\d+ images a second\n", capsys.readouterr().out)


class Encoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 8, 3, stride=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.convolution(images).relu().mean(dim=(2, 3))
        return features


def test_encoder_of_the_page_trains_from_an_exported_file(follow: Any, short: Any) -> None:
    page = follow("Encoder source")
    images = torch.randn(4, 3, SIZE, SIZE)
    batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(Encoder(), (images,), dynamic_shapes=batch)
    torch.export.save(program, "encoder.pt2")
    logits = page.calls("my_encoders.Exported.forward")
    short["trainer"]["enable_checkpointing"] = True
    result = page.run(short)
    assert logits and logits[0].shape[1] == len(COLOURS)
    tested = main(["--test", "--ckpt_path", result.output_dir, "--allow_module", "my_encoders"])
    assert tested is not None and tested.status == "completed"
