"""What a file says of itself, looked at before it is believed: kinds, names and ranges.

A file may be damaged, or made by a stranger. What it says sizes the memory that an image takes, and
is shown to users, so that each value is checked before anything is done with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from classifier.image_steps import BORDERS, POSITIONS, RULES
from classifier.model.tasks import MULTICLASS, MULTILABEL
from classifier.opencv_resize import INTERPOLATIONS as OPENCV_INTERPOLATIONS
from classifier.preprocessing import INTERPOLATIONS, RESIZE_MODES

MOST_PIXELS = 8192  # of a side: an image of such sides takes 200 MB
_PRECISIONS = ("fp32", "fp16", "int8")
_CROP_OFFSETS = ("even", "down")
# Of pixels in [0, 1]; beyond it float32 has no room for the quotient.
_LARGEST_MEAN, _STD = 1000, (1e-6, 1e6)
_TEMPERATURE = (1e-4, 1e4)
_LAST_OPSET = 1000

_Test = Callable[[Any], bool]
_Rule = tuple[_Test, str]


def check_claims(values: Mapping[str, Any], inputs: Collection[str]) -> None:
    """Refuse a description that cannot be.

    Args:
        values: As `Description.to_dict` gives them, but for the version.
        inputs: What the description's `input` may be.

    Raises:
        ValueError: names the first value that is missing or wrong, and what it must be.
    """
    _check(values, _fields(inputs), "")
    preprocessing = dict(values["preprocessing"])
    steps = preprocessing.pop("steps", [])  # left out where there are none
    _check(preprocessing, _PREPROCESSING, "preprocessing.")
    if not isinstance(steps, list):
        raise ValueError(f"preprocessing.steps must be a list, got {_shown(steps)}")
    for index, step in enumerate(steps):
        _check_step(step, f"preprocessing.steps.{index}.")
    _check_decisions(values)


def _check(values: Mapping[str, Any], rules: Mapping[str, _Rule], before: str) -> None:
    """Each value by its rule; each is needed, and nothing else may be there."""
    for name, (is_right, words) in rules.items():
        if name not in values:
            raise ValueError(f"{before}{name} is missing")
        if not is_right(values[name]):
            raise ValueError(f"{before}{name} must be {words}, got {_shown(values[name])}")
    unknown = sorted(set(map(str, values)) - set(rules))
    if unknown:
        raise ValueError(f"{before}{_shown(unknown[0])} is not known")


def _check_step(step: Any, before: str) -> None:
    kind = step.get("step") if isinstance(step, Mapping) else None
    if not isinstance(kind, str) or kind not in _STEPS:
        raise ValueError(f"{before}step must be {_either(_STEPS)}, got {_shown(kind)}")
    _check({name: value for name, value in step.items() if name != "step"}, _STEPS[kind], before)
    if kind == "Scale":
        missing = [step[side] is None for side in ("height", "width")]
        if all(missing) or (any(missing) and step["rule"] == "squash"):
            raise ValueError(f"{before}height and width must be numbers of pixels")


def _check_decisions(values: Mapping[str, Any]) -> None:
    """Thresholds and `positive` have to fit the classes."""
    number, several = len(values["class_names"]), values["task"] == MULTILABEL
    thresholds, positive = values["thresholds"], values["positive"]
    if positive is not None and (several or number != 2):
        raise ValueError(f"positive is for two classes of which an image has one, got {positive}")
    wanted = number if several else 0 if positive is None else 1
    if thresholds is None and not several:
        return
    if thresholds is None or len(thresholds) != wanted:
        raise ValueError(
            f"thresholds must be {wanted} numbers, one for each class that has one, got "
            f"{_shown(thresholds)}"
        )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _either(names: Collection[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


# Tests of a value. A bool is an int to Python, and nan is smaller than nothing.


def _is_whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most


def _is_side(value: Any) -> bool:
    return _is_whole(value, 1, MOST_PIXELS)


def _is_chance(value: Any) -> bool:
    return type(value) is float and 0 < value < 1


def _is_text(value: Any) -> bool:
    """Text that can be written to a file: half of a surrogate pair cannot."""
    return isinstance(value, str) and not any("\ud800" <= sign <= "\udfff" for sign in value)


def _are_class_names(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(map(_is_text, value))
        and len(set(value)) == len(value)
    )  # fmt: skip


def _are_plain(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


# Rules: a test, and its words.


def _one_of(names: Collection[str]) -> _Rule:
    return lambda value: isinstance(value, str) and value in names, _either(names)


def _list_of(number: int, is_right: _Test, words: str) -> _Rule:
    def are_right(value: Any) -> bool:
        return (
            isinstance(value, list | tuple) and len(value) == number and all(map(is_right, value))
        )

    return are_right, words


def _or_null(rule: _Rule) -> _Rule:
    is_right, words = rule
    return lambda value: value is None or is_right(value), f"{words}, or null"


_SIDE: _Rule = (_is_side, f"a number of pixels from 1 to {MOST_PIXELS}")
_SIDES = _list_of(2, _is_side, f"height and width from 1 to {MOST_PIXELS} pixels")
_COLOUR = _list_of(3, lambda value: _is_whole(value, 0, 255), "three numbers from 0 to 255")
_DICT: _Rule = (lambda value: isinstance(value, dict), "a mapping")

_PREPROCESSING: dict[str, _Rule] = {
    "size": _SIDES,
    "resize": _SIDES,
    "resize_mode": _one_of(RESIZE_MODES),
    "interpolation": _one_of(INTERPOLATIONS),
    "mean": _list_of(
        3, lambda value: _is_number(value, -_LARGEST_MEAN, _LARGEST_MEAN),
        f"three numbers from -{_LARGEST_MEAN} to {_LARGEST_MEAN}",
    ),
    "std": _list_of(3, lambda value: _is_number(value, *_STD), "three numbers above 0"),
    "crop_offset": _one_of(_CROP_OFFSETS),
}  # fmt: skip
_STEPS: dict[str, dict[str, _Rule]] = {
    "Scale": {
        "height": _or_null(_SIDE),
        "width": _or_null(_SIDE),
        "rule": _one_of(RULES),
        "interpolation": _one_of(OPENCV_INTERPOLATIONS),
        "shrinking": _one_of(OPENCV_INTERPOLATIONS),
    },
    "Crop": {"height": _SIDE, "width": _SIDE},
    "Pad": {
        "height": _or_null(_SIDE),
        "width": _or_null(_SIDE),
        "height_divisor": _or_null(_SIDE),
        "width_divisor": _or_null(_SIDE),
        "position": _one_of(POSITIONS),
        "border": _one_of(BORDERS),
        "fill": _COLOUR,
    },
}


def _fields(inputs: Collection[str]) -> dict[str, _Rule]:
    """The rules of a description itself."""
    return {
        "format": (_is_text, "a name"),
        "class_names": (_are_class_names, "a list of different names"),
        "task": _one_of((MULTICLASS, MULTILABEL)),
        "preprocessing": _DICT,
        "background": _COLOUR,
        "temperature": (lambda value: _is_number(value, *_TEMPERATURE), "a number above 0"),
        "thresholds": _or_null((
            lambda value: isinstance(value, list) and all(map(_is_chance, value)),
            "a list of numbers above 0 and below 1",
        )),
        "positive": _or_null((lambda value: _is_whole(value, 0, 1), "0 or 1")),
        "input": _one_of(inputs),
        "precision": _one_of(_PRECISIONS),
        "opset": _or_null((lambda value: _is_whole(value, 1, _LAST_OPSET), "a number")),
        "network": _DICT,
        "software": (_are_plain, "a mapping of names to versions"),
    }  # fmt: skip
