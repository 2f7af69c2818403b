"""What is kept of a text that may hold a secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from classifier.config import parse_yaml
from classifier.masking import masked, masked_words, shareable, shareable_yaml, without_secrets


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
        (["{project: p, api_key: s3cret}"], ["{project: p, api_key: '***'}"]),
        (['{"api_key": "s3cret s3cret, s3cret", "a": 1}'], ["{api_key: '***', a: 1}"]),
        (['--x={"api_key": "s3cret s3cret", "a": 1}'], ["--x={api_key: '***', a: 1}"]),
        (['{"api_key": "s3cret s3cret, s3cret'], ['{"api_key": ***']),
        (["--x.access_key", "s3cret"], ["--x.access_key", "***"]),
        (["--x.pwd", "s3cret"], ["--x.pwd", "***"]),
        (["--x.private_key", "s3cret s3cret"], ["--x.private_key", "***"]),
        (["--x.tokens", '["s3cret"]'], ["--x.tokens", "***"]),
        (["--x.credentials.user", "s3cret"], ["--x.credentials.user", "***"]),
        (["--x.password=s3cret=, s3cret"], ["--x.password=***"]),
        (["password=s3cret s3cret"], ["password=***"]),
        (["passphrase: s3cret s3cret"], ["passphrase: '***'"]),
        (["api-key: s3cret"], ["api-key: '***'"]),
        (["apiKey: |\n  s3cret\n  s3cret"], ["apiKey: '***'"]),
        (["--x.token", "--s3cret"], ["--x.token", "***"]),
        (["Authorization: Bearer s3cret"], ["Authorization: '***'"]),
        (["['Authorization: Bearer s3cret']"], ["['Authorization: ''***''']"]),
        (["--x", "send Bearer s3crets3cret"], ["--x", "send Bearer ***"]),
        (["mysql://me:s3@s3cret@db/x"], ["mysql://me:***@db/x"]),
        (["--x=mysql://me:s3/s3cret@db/x"], ["--x=mysql://me:***@db/x"]),
        (["{url: 'mysql://me:s3@s3cret@db/x', token: s3cret}"],
         ["{url: 'mysql://me:***@db/x', token: '***'}"]),
        (["--x", "hf_s3cretS3CRETs3cretS3CRET"], ["--x", "***"]),
    ],
)  # fmt: skip
def test_command_line_keeps_no_secret(words: list[str], kept: list[str]) -> None:
    assert masked_words(words) == kept
    assert "s3cret" not in " ".join(kept)


def test_command_line_keeps_what_is_no_secret() -> None:
    words = ["--config", "cfg.yaml", "--optuna.storage", "postgresql://me:${PW}@host/db", "--strict",
             "--model.init_args.model_args.num_tokens", "3", "--x.prompt_tokens=4", "--x.token", "null",
             "--x.hub_token", "${HF}", "{token: ${HF}, a: 1}", "{num_tokens: 3}", "--x.token_size", "a",
             "http://host:8080/a@b", "{a: [1, 'b c']}", "bypass=1"]  # fmt: skip
    assert masked_words(words) == words


def test_command_line_does_not_tell_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/somebody"))
    assert masked_words(["--config=/home/somebody/a.yaml"]) == ["--config=~/a.yaml"]
    assert masked_words(["{root: /home/other/a}"]) == ["{root: ~/a}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("root: /home/alice/photos", "root: ~/photos"),
        ('"/Users/bob"', '"~"'),
        ("- /root/x", "- ~/x"),
        ("C:\\Users\\eve\\photos", "~\\photos"),
        ('"C:\\\\Users\\\\eve\\\\photos"', '"~\\\\photos"'),
        ("root: data/home/alice", "root: data/home/alice"),
        ("root: /mnt/photos", "root: /mnt/photos"),
        ("root: /rooted/x", "root: /rooted/x"),
        ("url: postgresql://me:pw@host/db", "url: postgresql://host/db"),
        ("file:///home/alice/x", "file://~/x"),
        ("C:/Users/eve/photos", "~/photos"),
        ("C:\\Users\\Eve Smith\\photos", "~\\photos"),
        ("url: postgresql://joe:p@SSWD@host/db", "url: postgresql://host/db"),
        ("postgresql://joe:p@SS/WD@host/db", "postgresql://host/db"),
        ("redis://:pw@host", "redis://host"),
        ("https://me:p@w@host/a@v1", "https://host/a@v1"),
        ("https://host:8080/a@v1", "https://host:8080/a@v1"),
        ("postgresql://me:${PW}@host/db", "postgresql://me:${PW}@host/db"),
        ("https://host/?api_key=abc&b=1", "https://host/?api_key=removed&b=1"),
        ("https://host/x?sv=1&sig=abc%2F", "https://host/x?sv=1&sig=removed"),
        ("see hf_AbCdEfGhIjKlMnOpQrStUvWx.", "see removed."),
        ("lr: 1e-3", "lr: 1e-3"),
    ],
)
def test_what_is_private_goes_and_the_rest_stays(text: str, expected: str) -> None:
    assert shareable(text) == expected
    assert shareable({"a": [text, {"b": text}]}) == {"a": [expected, {"b": expected}]}
    assert shareable(expected) == expected


_LONG = "s3cret correct, horse " * 20


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("api_key", "s3cret correct, horse"),
        ("apiKey", "s3cret"),
        ("api-key", "s3cret"),
        ("passwd", "s3cret"),
        ("pwd", "s3cret"),
        ("passphrase", _LONG),
        ("password", "s3cret\nof\n\nlines: s3cret\n"),
        ("db_password", 123456),
        ("password", 123456),
        ("tokens", ["s3cret", "s3cret"]),
        ("access_key", "s3cret"),
        ("private_key", "-----BEGIN PRIVATE KEY-----\ns3cret\n"),
        ("aws_secret_access_key", "s3cret"),
        ("HF_TOKEN", "s3cret"),
        ("Authorization", "Bearer s3cret"),
        ("credentials", {"user": "s3cret", "login": {"pin": 123456}}),
        ("logger.init_args.token", "s3cret"),
        ("credentials.user", "s3cret"),
        ("token", "s3cret ${HF}"),
    ],
)
def test_whole_value_goes_below_the_name_of_a_secret(key: str, value: Any) -> None:
    tree = {"logger": [{"init_args": {"project": "p", key: value, "url": "u"}}], "lr": 0.1}
    kept = {"logger": [{"init_args": {"project": "p", key: "removed", "url": "u"}}], "lr": 0.1}
    assert shareable(tree) == kept == shareable(kept) == without_secrets(tree)
    text = shareable_yaml(tree)
    assert parse_yaml(text) == yaml.safe_load(text) == kept
    told = shareable(json.dumps(tree))  # as text inside of other text
    assert not any(word in told for word in ("s3cret", "horse", "123456"))
    assert not any(
        word in " ".join(masked_words([json.dumps(tree)])) for word in ("s3cret", "horse")
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_tokens", 5), ("max_tokens", 5), ("max_tokens", "all"), ("prompt_tokens", 5),
        ("prompt_tokens", [4, 8]), ("class_token", True), ("class_token", 3), ("token_size", "big"),
        ("tokenizer", "bert"), ("token", None), ("token", False), ("password", ""),
        ("token", "${HF_TOKEN}"), ("Authorization", "Bearer ${HF_TOKEN}"), ("tokens", ["${A}"]),
        ("bypass", "a"), ("key_path", "keys/a.pem"), ("image_key", "image"), ("oauth", "a"),
        ("name", "token"), ("class_names", ["secret", "pass word"]), ("lr", 1e-5), ("a", "1e-5"),
    ],
)  # fmt: skip
def test_what_only_sounds_like_a_secret_stays(key: str, value: Any) -> None:
    tree = {"init_args": {key: value}}
    assert shareable(tree) == tree == yaml.safe_load(shareable_yaml(tree))


def test_secrets_go_from_text_inside_of_data() -> None:
    tree = {"env": '{"api_key": "s3cret s3cret", "b": 1}', "note": "a: 1\npassword: |\n  s3cret\n"}
    kept = shareable(tree)
    assert yaml.safe_load(kept["env"]) == {"api_key": "removed", "b": 1}
    assert yaml.safe_load(kept["note"]) == {"a": 1, "password": "removed"}
    assert shareable({"header": ["X-Api-Key: s3cret"]}) == {"header": ["X-Api-Key: removed"]}


def test_paths_stay_where_only_secrets_are_to_go() -> None:
    tree = {"root": "/home/alice/photos", "url": "postgresql://joe:p@SSWD@host/db", "token": "a"}
    assert without_secrets(tree) == {
        "root": "/home/alice/photos", "url": "postgresql://host/db", "token": "removed"
    }  # fmt: skip


def test_own_home_goes_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/work/people/carol"))
    assert shareable("root: /work/people/carol/photos") == "root: ~/photos"
    assert shareable("root: /work/people/caroline") == "root: /work/people/caroline"
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    assert shareable("root: /data/photos") == "root: /data/photos"
