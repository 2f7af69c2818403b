"""The one reader of YAML, and what can be said of a configuration before anything is imported."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from classifier.errors import ConfigError
from classifier.importing import is_own_class
from classifier.trees import merge, override

SECTIONS = ("model", "data", "trainer", "evaluation", "optuna")
TOP_LEVEL_KEYS = (
    "seed_everything",
    "ckpt_path",
    "custom_folder_name",
    "only_weights_load",
    *SECTIONS,
)
# A checkpoint is data: its configuration may name classes of these packages only.
TRUSTED_PACKAGES = frozenset(
    {
        "albumentations",
        "classifier",
        "lightning",
        "timm",
        "torch",
        "torchmetrics",
        "torchvision",
        "transformers",
    }
)

IMPORT_PATH = re.compile(r"^\s*[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+\s*$")
# Keys of text that may hold dots and that no class takes for code.
_PLAIN_TEXT_KEYS = frozenset(
    {
        "root", "dirpath", "filename", "custom_folder_name", "ckpt_path", "save_dir",
        "table", "image_column", "target_column", "split_column", "split", "group_column",
        "delimiter", "subset", "revision", "data_dir", "cache_dir", "group_pattern", "class_names",
        "target_modules", "exclude_modules", "layers_pattern",
    }
)  # fmt: skip
# Of a checkpoint's trainer section; hardware and limits are today's.
_KEPT_FOR_EVALUATION = ("callbacks", "precision")
_BOOLEAN_WORDS = frozenset({"on", "off", "yes", "no"})


class _Reader(yaml.SafeLoader):
    """YAML 1.2 scalars: `1e-5` is a number, `12:30` a string; a mapping has each key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, yaml.Node] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool):
                raise yaml.YAMLError(f"line {_line(key_node)}: a key must be plain text")
            if key in seen:
                raise yaml.YAMLError(
                    f"line {_line(key_node)}: the key {key!r} stands twice, "
                    f"first in line {_line(seen[key])}"
                )
            seen[key] = key_node
        return super().construct_mapping(node, deep=deep)


_Reader.yaml_implicit_resolvers = {}  # none of YAML 1.1's; the ones below instead


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _ambiguous(loader: _Reader, node: yaml.ScalarNode) -> Any:
    raise yaml.YAMLError(
        f"line {_line(node)}: {node.value!r} may mean a word or a truth value; "
        f"quote it ('{node.value}') or write true or false"
    )


def _add_scalar(tag: str, pattern: str, first: str) -> None:
    _Reader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(first))


_add_scalar("null", r"^(?:~|null|Null|NULL|)$", "~nN")
_Reader.yaml_implicit_resolvers.setdefault("", []).append(
    ("tag:yaml.org,2002:null", re.compile(r"^$"))
)
_add_scalar("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF")
_add_scalar("ambiguous", rf"^(?i:{'|'.join(sorted(_BOOLEAN_WORDS))})$", "oOyYnN")
_add_scalar("int", r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$", "-+0123456789")
_add_scalar(
    "float",
    r"^[-+]?(?:[0-9][0-9_]*\.[0-9]*(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
    r"|\.[0-9]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$",
    "-+0123456789.",
)
_add_scalar("merge", r"^<<$", "<")
_Reader.add_constructor("tag:yaml.org,2002:ambiguous", _ambiguous)


def parse_yaml(text: str) -> Any:
    """Parse one YAML document.

    Raises:
        yaml.YAMLError: bad syntax, a key that stands twice, or an unquoted on, off, yes or no.
    """
    return yaml.load(text, Loader=_Reader)


def parse_word(text: str) -> Any:
    """Parse a value given on the command line; what is no YAML is text.

    Args:
        text: `1e-3`, `true`, `[1, 2]`, `{name: SGD}` or any word.
    """
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return text


def read_config(path: str | Path) -> dict[str, Any]:
    """Read one configuration file and check its top level.

    Args:
        path: The YAML file.

    Raises:
        ConfigError: no such file, not UTF-8, bad YAML, or an unknown or ill-typed top-level key.
    """
    file = Path(path)
    if not file.is_file():
        near = sorted(p.name for p in file.parent.glob("*.y*ml")) if file.parent.is_dir() else []
        raise ConfigError(
            "--config", "no such file", got=str(path), remedy="Give the path of a YAML file",
            name=file.name, options=near,
        )  # fmt: skip
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{place}", f"not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(str(path), str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "not UTF-8 text", remedy="Save the file as UTF-8") from error
    if not isinstance(content, dict):
        raise ConfigError(
            str(path), "must hold keys such as model, data and trainer",
            got=content, remedy="See configs/folder.yaml for a complete file",
        )  # fmt: skip
    check_top_level(content, source=f"{path}: ")
    return content


def assembled(
    layers: Sequence[Mapping[str, Any]], overrides: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Configuration files < command line, as one tree.

    Args:
        layers: The files' contents, later ones win.
        overrides: (dotted key, text) pairs.
    """
    tree: dict[str, Any] = {}
    for layer in layers:
        tree = merge(tree, layer)
    for key, text in overrides:
        override(tree, key, parse_word(text))
    return tree


def tunes(tree: Mapping[str, Any]) -> bool:
    """Whether a configuration asks for a sweep.

    Raises:
        ConfigError: `optuna.tune` is neither true nor false.
    """
    check_top_level(tree)
    asked = (tree.get("optuna") or {}).get("tune", False)
    if not isinstance(asked, bool):
        raise ConfigError("optuna.tune", "must be true or false", got=asked)
    return asked


def check_top_level(config: Mapping[Any, Any], source: str = "") -> None:
    """Refuse unknown top-level keys, and sections that are no mappings.

    Args:
        config: The parsed file.
        source: Put before the key in a message, to name the file.

    Raises:
        ConfigError: names the key and the nearest valid one.
    """
    for key, value in config.items():
        if key not in TOP_LEVEL_KEYS:
            raise ConfigError(
                f"{source}{key}", "unknown key", name=str(key), options=TOP_LEVEL_KEYS,
                remedy=f"The top-level keys are {', '.join(TOP_LEVEL_KEYS)}",
            )  # fmt: skip
        if key in SECTIONS and not isinstance(value, Mapping | None):
            raise ConfigError(
                f"{source}{key}", "must be a mapping of keys", got=value,
                remedy=f"Write the keys of {key} indented below it",
            )  # fmt: skip


def class_paths(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every `class_path` in a configuration, and every name that is an import path.

    Yields:
        (dotted key, class path) pairs, in file order. List items are keyed by their index.
    """
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            here = f"{key}.{name}" if key else str(name)
            is_class = str(name).rpartition(".")[2] == "class_path"
            if isinstance(value, str) and (is_class or _is_import_path(here, value)):
                yield here, value
            else:
                yield from class_paths(value, here)
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            if isinstance(value, str) and key.endswith(".metrics"):
                yield f"{key}.{index}", value
            else:
                yield from class_paths(value, f"{key}.{index}")


def _is_import_path(key: str, value: str) -> bool:
    named_by_name = (".optimizer_config.name", ".scheduler_config.name", ".loss_config.name")
    if key.endswith(".model_name"):
        return IMPORT_PATH.match(value) is not None  # timm/resnet18.a1_in1k is none
    return key.endswith(named_by_name) and "." in value


def check_trusted(config: Mapping[str, Any], allowed: frozenset[str], source: str) -> None:
    """Refuse a checkpoint's own configuration that names code from outside the trusted packages.

    Runs on the raw tree: of what it names only modules of trusted packages are imported. Whatever
    looks like an import path counts, wherever it stands: the parser takes a class also as a plain
    string, and functions. A function is no data, nor what a trusted module imports from elsewhere:
    `torch.os.system` begins with a trusted name.

    Args:
        config: The configuration that a checkpoint carries.
        allowed: Further top-level packages that the user trusts (`--allow_module NAME`).
        source: The checkpoint, for the message.

    Raises:
        ConfigError: names the key, the class and the flag that would allow it.
    """
    trusted = TRUSTED_PACKAGES | allowed
    named = [(key, path, path.partition(".")[0]) for key, path in _import_paths(config, "")]
    foreign = dict.fromkeys(package for _, _, package in named if package not in trusted)
    for key, path, package in named:
        if package in foreign:
            flags = " ".join(f"--allow_module {name}" for name in foreign)
            raise ConfigError(
                key, f"the checkpoint {source} names code outside the trusted packages", got=path,
                remedy=f"If you trust this checkpoint, add {flags}",
            )  # fmt: skip
        if package not in allowed and not is_own_class(path, trusted):
            raise ConfigError(
                key, f"the checkpoint {source} names what is no class of a trusted package",
                got=path, remedy=f"If you trust this checkpoint, add --allow_module {package}",
            )  # fmt: skip


def _import_paths(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text in a tree that could be an import path, with its dotted key."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _import_paths(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _import_paths(value, f"{key}.{index}")
    elif isinstance(node, str):
        inner = parse_word(node) if any(sign in node for sign in ":{[\n") else None
        if isinstance(inner, Mapping | list):
            yield from _import_paths(inner, key)  # the parser reads YAML inside of text
        elif IMPORT_PATH.match(node) and _name_of(key) not in _PLAIN_TEXT_KEYS:
            yield key, node


def _name_of(key: str) -> str:
    """The last part of a dotted key that is no list index."""
    return next((part for part in reversed(key.split(".")) if not part.isdigit()), "")


def for_evaluation(saved: Mapping[str, Any], *, of_paths: bool) -> dict[str, Any]:
    """What a training's configuration says to a command that does not train.

    Args:
        saved: Of a checkpoint.
        of_paths: Whether images are named by their paths, so that no data set is needed.
    """
    trainer = saved.get("trainer") or {}
    kept = {key: trainer[key] for key in _KEPT_FOR_EVALUATION if key in trainer}
    if not of_paths:
        return {**saved, "trainer": kept}
    # The classes of the training's data sets need not be there to predict a file.
    changed = merge(saved, {"data": {"init_args": {"dataset_classes": None}}})
    changed["data"]["init_args"]["dataset_classes"] = {}
    return {**changed, "trainer": kept}
