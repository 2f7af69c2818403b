"""What is kept of a text that may hold a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from classifier.masking import masked, masked_words


def test_storage_url_keeps_no_password() -> None:
    for secret in ("secret", "sec@ret", "sec/ret", "sec:ret"):
        assert masked(f"postgresql://me:{secret}@host/db") == "postgresql://me:***@host/db"
    assert masked("postgresql://host/db?password=secret&x=1").endswith("?password=***&x=1")
    assert masked("sqlite:///a/b.db") == "sqlite:///a/b.db"


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["--model.init_args.hub_token", "s3cret"], ["--model.init_args.hub_token", "***"]),
        (["--x.api_key=s3cret"], ["--x.api_key=***"]),
        (["--optuna.storage", "mysql://me:s3cret@db/x"], ["--optuna.storage", "mysql://me:***@db/x"]),
        (["https://s3cret@example.org/x.git"], ["https://***@example.org/x.git"]),
        (["http://a.org/?access_token=s3cret&b=1"], ["http://a.org/?access_token=***&b=1"]),
        (["{project: p, api_key: s3cret}"], ["{project: p, api_key: ***}"]),
        (["--x", "hf_s3cretS3CRETs3cretS3CRET"], ["--x", "***"]),
    ],
)  # fmt: skip
def test_command_line_keeps_no_secret(words: list[str], kept: list[str]) -> None:
    assert masked_words(words) == kept
    assert "s3cret" not in " ".join(kept)


def test_command_line_keeps_what_is_no_secret() -> None:
    words = ["--config", "cfg.yaml", "--optuna.storage", "postgresql://me:${PW}@host/db", "--strict",
             "--model.init_args.model_args.num_tokens", "3", "--token", "--config"]  # fmt: skip
    assert masked_words(words) == words


def test_command_line_does_not_tell_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/somebody"))
    assert masked_words(["--config=/home/somebody/a.yaml"]) == ["--config=~/a.yaml"]
