from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from classifier.config import class_paths, parse_word, parse_yaml
from classifier.errors import ConfigError
from classifier.runs import slug
from classifier.trees import merge, override


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("1E5", 1e5), ("-2.5e+3", -2500.0), (".5", 0.5), ("3", 3), ("0x10", 16),
        ("007", "007"), ("12:30:00", "12:30:00"), ("2026-01-01", "2026-01-01"), ("true", True),
        ("null", None), ("~", None), ("", None), ("'on'", "on"), ("nothing", "nothing"),
        (".inf", float("inf")), ("1_000", 1000), ("{a: 1}", {"a": 1}), ("[1, x]", [1, "x"]),
    ],
)  # fmt: skip
def test_scalars_mean_what_they_look_like(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert found == value and type(found) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_that_python_prints_is_read_as_itself(number: float) -> None:
    assert parse_yaml(repr(number)) == number


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "On", "NO"])
def test_ambiguous_word_must_be_quoted(word: str) -> None:
    with pytest.raises(yaml.YAMLError, match=f"line 1: '{word}' may mean a word or a truth value"):
        parse_yaml(f"[{word}]")


def test_merge_key_and_anchor_work() -> None:
    assert parse_yaml("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}")["b"] == {"p": 1, "q": 3}


def test_python_objects_are_not_made() -> None:
    with pytest.raises(yaml.YAMLError):
        parse_yaml("!!python/object/apply:os.system ['true']")


def test_command_line_word_that_is_no_yaml_is_text() -> None:
    assert parse_word("[half") == "[half"


def test_merge_joins_mappings_and_replaces_the_rest() -> None:
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merge(base, {"a": {"y": [3]}}) == {"a": {"x": 1, "y": [3]}, "b": 1}
    assert base["a"] == {"x": 1, "y": [1, 2]}


def test_merge_with_another_class_drops_the_old_arguments() -> None:
    base = {"class_path": "A", "init_args": {"p": 1}}
    assert merge(base, {"class_path": "B"}) == {"class_path": "B"}
    assert merge(base, {"init_args": {"q": 2}})["init_args"] == {"p": 1, "q": 2}


def test_override_reaches_lists_and_arguments() -> None:
    tree: dict[str, Any] = {"data": {"class_path": "D", "init_args": {"t": [{"class_path": "F"}]}}}
    override(tree, "data.init_args.t.0.p", 0.3)
    override(tree, "data.batch", 4)
    assert tree["data"]["init_args"] == {
        "t": [{"class_path": "F", "init_args": {"p": 0.3}}],
        "batch": 4,
    }
    with pytest.raises(ConfigError, match="the list has 1 items"):
        override(tree, "data.init_args.t.1.p", 1)
    with pytest.raises(ConfigError, match="has no keys below it"):
        override(tree, "data.batch.size.x", 1)


def test_class_paths_are_found_wherever_they_hide() -> None:
    tree = {
        "a": [{"class_path": "p.Q"}],
        "model": {"init_args": {"optimizer_config": {"name": "x.Y"}}},
        "c": {"init_args": {"metrics": ["m.N"]}},
        "d": {"init_args": {"loss_config": {"name": "l.M"}}},
    }
    assert [path for _, path in class_paths(tree)] == ["p.Q", "x.Y", "m.N", "l.M"]


@given(st.text())
def test_slug_stays_below_its_parent(name: str) -> None:
    parts = slug(name).split("/")
    assert all(part not in ("", ".", "..") for part in parts)
    assert "\0" not in slug(name)
