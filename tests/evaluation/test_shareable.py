"""What may be shown to others: paths without homes, configurations without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from classifier.evaluation.shareable import shareable


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
        ("  api_key: abc", '  api_key: "removed"'),
        ("  - password: abc", '  - password: "removed"'),
        ('  "hf_token": "abc",', '  "hf_token": "removed",'),
        ("  class_token: true", "  class_token: true"),
        ("  num_tokens: 16", "  num_tokens: 16"),
        ("  token: null", "  token: null"),
        ("  lr: 1e-3", "  lr: 1e-3"),
    ],
)
def test_what_is_private_goes_and_the_rest_stays(text: str, expected: str) -> None:
    assert shareable(text) == expected
    assert shareable(f"a: 1\n{text}\nb: 2") == f"a: 1\n{expected}\nb: 2"
    assert shareable(expected) == expected


def test_own_home_goes_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/work/people/carol"))
    assert shareable("root: /work/people/carol/photos") == "root: ~/photos"
    assert shareable("root: /work/people/caroline") == "root: /work/people/caroline"
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    assert shareable("root: /data/photos") == "root: /data/photos"
