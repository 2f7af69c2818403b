"""--push_to_hub against a local stand-in of the Hub: what arrives, what does not, what is told."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from classifier import main
from classifier.entry import console
from classifier.errors import ConfigError, RunError
from tests.cli.upload_hub import UploadHub

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345"
NAME = "someone/colours"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[UploadHub]:
    """A stand-in that this process takes for the Hub, with a token that it accepts."""
    from huggingface_hub import constants

    stand_in = UploadHub(TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", stand_in.address)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-login"))
    monkeypatch.delenv("HF_OIDC_RESOURCE", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield stand_in
    stand_in.close()


@pytest.fixture
def run(trained: Path, workplace: Path) -> Path:
    """A run folder of the test's own, with what a report leaves there."""
    folder = workplace / "run"
    shutil.copytree(trained, folder)
    (folder / "README.md").write_text("---\npipeline_tag: image-classification\n---\n\n# Mine\n")
    (folder / "report" / "validation").mkdir(parents=True)
    for name in (
        "metrics.json", "index.html", "errors.csv", "confusion.png", "learning_loss.png",
        "gradients.png",
    ):  # fmt: skip
        (folder / "report" / name).write_text(f"{name} of the test images")
        (folder / "report" / "validation" / name).write_text(f"{name} of the validation images")
    (folder / "predictions.csv").write_text("path,label\n")
    return folder


def push(run: Path, *words: str) -> None:
    main(["--push_to_hub", NAME, "--ckpt_path", str(run), *words])


def test_run_is_uploaded_without_images_and_names_of_images(hub: UploadHub, run: Path) -> None:
    push(run)
    repository = hub.repositories[NAME]
    assert repository.private
    assert repository.commits == ["Upload colours"]
    sent = (
        "README.md", "config.yaml", "result.json", "checkpoints/best.ckpt", "report/metrics.json",
        "report/confusion.png", "report/learning_loss.png", "report/validation/metrics.json",
        "report/validation/confusion.png", "report/validation/learning_loss.png",
    )  # fmt: skip
    files = {path: (run / path).read_bytes() for path in sent}
    config = (run / "config.yaml").read_text()
    assert config.startswith("# ")  # which version wrote it
    files["config.yaml"] = config.partition("\n")[2].encode()
    assert repository.files == files


def test_token_goes_to_the_hub_and_nowhere_else(
    hub: UploadHub, run: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    push(run)
    said = capfd.readouterr()
    assert said.out == f"{hub.address}/{NAME}\n"
    for _, path, authorization in hub.requests:
        assert authorization == (None if path.startswith("/objects/") else f"Bearer {TOKEN}")
    assert len(hub.requests) >= 5
    assert TOKEN not in said.out + said.err + caplog.text
    assert not any(TOKEN.encode() in f.read_bytes() for f in Path.cwd().rglob("*") if f.is_file())
    assert not Path("runs").exists()


def test_bare_checkpoint_is_uploaded_with_a_card_of_its_own(
    hub: UploadHub, trained: Path, workplace: Path
) -> None:
    shutil.copy(trained / "checkpoints" / "best.ckpt", workplace / "mine.ckpt")
    push(Path("mine.ckpt"))
    files = hub.repositories[NAME].files
    assert sorted(files) == ["README.md", "mine.ckpt"]
    assert files["mine.ckpt"] == Path("mine.ckpt").read_bytes()
    card = files["README.md"].decode()
    assert "blue, green, red" in card and "Not evaluated" in card
    assert "--ckpt_path mine.ckpt" in card


def test_trained_model_goes_up_with_the_figures_of_its_report(hub: UploadHub, train: Any) -> None:
    folder = Path(train("--evaluation.report", "true", "--trainer.max_epochs", "1").output_dir)
    push(folder)
    files = hub.repositories[NAME].files
    head = ModelCard(files["README.md"].decode()).data
    told = {(r.dataset_split, r.metric_name): r.metric_value for r in head["eval_results"]}
    for stage, path in (
        ("test", "report/metrics.json"), ("validation", "report/validation/metrics.json"),
    ):  # fmt: skip
        for name, estimate in json.loads(files[path])["estimates"].items():
            assert told.pop((stage, name)) == pytest.approx(estimate["value"], abs=1e-6)
    assert told == {}
    pictures = {Path(path).name for path in files if path.endswith(".png")}
    assert pictures == {path.name for path in folder.rglob("*.png")}
    assert {Path(path).suffix for path in files} == {".md", ".yaml", ".json", ".ckpt", ".png"}


def test_another_checkpoint_of_a_run_does_not_go_under_the_figures_of_the_best(
    hub: UploadHub, run: Path
) -> None:
    push(run / "checkpoints" / "last.ckpt")
    files = hub.repositories[NAME].files
    assert sorted(files) == ["README.md", "last.ckpt"]
    assert "Not evaluated" in files["README.md"].decode()


def test_run_without_a_card_gets_one(hub: UploadHub, run: Path) -> None:
    (run / "README.md").unlink()
    push(run)
    card = hub.repositories[NAME].files["README.md"].decode()
    assert "--ckpt_path checkpoints/best.ckpt" in card
    assert torch.__version__.partition("+")[0] in card  # of environment.json
    assert not (run / "README.md").exists()


def test_home_directories_and_secrets_stay_here(hub: UploadHub, run: Path) -> None:
    config = run / "config.yaml"
    root = re.compile(r"root: .*train$", flags=re.MULTILINE)
    text = root.sub("root: /home/alice/photos\n          api_key: abc123", config.read_text())
    config.write_text(text)
    push(run)
    sent = hub.repositories[NAME].files["config.yaml"].decode()
    assert "root: ~/photos\n" in sent and "api_key: removed\n" in sent
    assert "alice" not in sent and "abc123" not in sent


def test_values_of_several_lines_stay_here_and_what_is_left_is_read(
    hub: UploadHub, run: Path
) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    secrets = {
        "api_key": "hunter2 correct, horse " * 9, "passwd": "hunter2\n\nhunter2\n", "pin": 1,
        "credentials": {"user": "hunter2"}, "password": 4711, "tokens": ["hunter2"],
        "url": "postgresql://joe:p@hunter2@host/db",
    }  # fmt: skip
    config["model"]["init_args"]["model_args"] = secrets
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    result = json.loads((run / "result.json").read_text())
    result["error"] = "cannot reach postgresql://joe:p@hunter2@host/db"
    (run / "result.json").write_text(json.dumps(result))
    push(run)
    files = hub.repositories[NAME].files
    sent = yaml.safe_load(files["config.yaml"])
    assert sent["model"]["init_args"]["model_args"] == {
        **dict.fromkeys(secrets, "removed"), "pin": 1, "url": "postgresql://host/db"
    }  # fmt: skip
    assert json.loads(files["result.json"])["error"] == "cannot reach postgresql://host/db"
    assert not any(b"hunter2" in files[name] for name in ("config.yaml", "result.json"))


def test_damaged_configuration_of_a_run_is_named(hub: UploadHub, run: Path) -> None:
    (run / "config.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"config\.yaml line 1, .*not valid YAML"):
        push(run)
    assert hub.requests == []


def test_public_is_said_aloud(hub: UploadHub, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    push(run, "--public")
    assert not hub.repositories[NAME].private
    hub.repositories[NAME].files.clear()
    with pytest.raises(ConfigError, match=r"^--push_to_hub: this repository is public.*--public"):
        push(run)
    assert hub.repositories[NAME].files == {}
    hub.repositories[NAME].private = True
    push(run, "--public")
    assert "is private and stays so" in caplog.text


def test_what_the_hub_says_of_the_card_is_told(
    hub: UploadHub, run: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    push(run)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and "no licence" in warnings[0]
    assert "HTTP Request" not in capfd.readouterr().err


def test_second_upload_is_a_second_commit(hub: UploadHub, run: Path) -> None:
    push(run)
    (run / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine, described\n")
    push(run)
    repository = hub.repositories[NAME]
    assert len(repository.commits) == 2
    assert repository.files["README.md"] == (run / "README.md").read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("colours", "--push_to_hub: is no name of a repository, got 'colours'. Write ORG/NAME"),
        ("a/b/c", "--push_to_hub: is no name of a repository, got 'a/b/c'. Write ORG/NAME"),
        ("a/b--c", "--push_to_hub: is no name of a repository ("),
        ("some one/x", "--push_to_hub: is no name of a repository ("),
        ("a/.b", "--push_to_hub: is no name of a repository ("),
    ],
)
def test_bad_name_is_told_before_the_hub_is_asked(
    hub: UploadHub, run: Path, name: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        main(["--push_to_hub", name, "--ckpt_path", str(run)])
    assert str(caught.value).startswith(message)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, r"^HF_TOKEN: there is no access token .*environment variable HF_TOKEN\."),
        ("hf_a b", r"^HF_TOKEN: is no access token: it holds spaces"),
        ("hf_wrong", r"^--push_to_hub: the Hub does not accept the access token \(401: Invalid"),
    ],
)
def test_missing_or_wrong_token_is_told(
    hub: UploadHub, run: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, message: str
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ConfigError, match=message) as caught:
        push(run)
    assert token is None or token not in str(caught.value)
    assert hub.repositories == {}


def test_token_in_a_configuration_is_not_uploaded(
    hub: UploadHub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "timm/test_resnet")  # which the configuration holds
    with pytest.raises(ConfigError, match=r"^HF_TOKEN: the access token itself stands in config"):
        push(run)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("path", "status", "kind", "message"),
    [
        ("/api/repos/create", 403, ConfigError, "may not write to someone (403: no)"),
        ("/api/repos/create", 404, ConfigError, "the Hub knows no someone, or hides it"),
        ("/api/models/someone", 500, ConfigError, "the Hub is out of order (500: no)"),
        ("/api/models/someone/colours/commit", 403, RunError, "may not write to someone"),
        ("/api/models/someone/colours/commit", 409, RunError, "changed by another upload"),
        ("/api/models/someone/colours/commit", 418, RunError, "the Hub refuses it (418: no)"),
        ("/objects/", 403, RunError, "the upload to someone/colours failed: the access token may"),
    ],
)
def test_refusal_of_the_hub_is_told_in_words(
    hub: UploadHub, run: Path, path: str, status: int, kind: type[Exception], message: str
) -> None:
    hub.refused[path] = (status, "no")
    with pytest.raises(kind) as caught:
        push(run)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(not repository.files for repository in hub.repositories.values())


def test_no_network_is_told_with_the_address(
    hub: UploadHub, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.close()
    assert console(["--push_to_hub", NAME, "--ckpt_path", str(run)]) == 2
    assert f"the Hub at {hub.address} cannot be reached" in capsys.readouterr().err


def test_offline_mode_is_told(hub: UploadHub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE forbids it"):
        push(run)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--push_to_hub"], "--push_to_hub: needs a value. Write --push_to_hub VALUE."),
        (["--push_to_hub", NAME], "--push_to_hub: needs a checkpoint. Add --ckpt_path"),
        (
            ["--push_to_hub", NAME, "--ckpt_path", "x", "--config", "c.yaml"],
            "--config: has no effect beside --push_to_hub",
        ),
        (
            ["--push_to_hub", NAME, "--ckpt_path", "x", "--seed_everything", "1"],
            "--seed_everything: has no effect beside --push_to_hub",
        ),
        (["--public", "--val", "--ckpt_path", "x"], "--public: goes with --push_to_hub only."),
    ],
)
def test_wrong_usage_is_told(workplace: Path, words: list[str], message: str) -> None:
    (workplace / "c.yaml").write_text("seed_everything: 1\n")
    with pytest.raises(ConfigError) as caught:
        main(words)
    assert str(caught.value).startswith(message)


@pytest.mark.long
def test_program_uploads_with_the_endpoint_and_the_token_of_the_environment(run: Path) -> None:
    hub = UploadHub(TOKEN)
    environment = {
        **os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(run.parent / "home"), "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    environment.pop("HF_HUB_OFFLINE", None)
    main_file = Path(__file__).parents[2] / "main.py"
    command = [sys.executable, str(main_file), "--push_to_hub", NAME, "--ckpt_path", str(run)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    hub.close()
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{hub.address}/{NAME}\n"
    best = (run / "checkpoints" / "best.ckpt").read_bytes()
    assert hub.repositories[NAME].files["checkpoints/best.ckpt"] == best
    assert TOKEN not in done.stderr
