"""What a path leads to: a checkpoint or an export, and the runtime that opens it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import is_zipfile

from classifier.errors import ConfigError
from classifier.formats import FILES, RECORD
from classifier.inference.description import KEY
from classifier.runs import find_checkpoint

if TYPE_CHECKING:
    from classifier.inference.route import Route

CHECKPOINT, HUGGINGFACE, ONNX, SAFETENSORS = "checkpoint", "huggingface", "onnx", "safetensors"
_SUFFIXES = {
    ".ckpt": CHECKPOINT, **{Path(name).suffix: name_of for name_of, name in FILES.items() if name},
}  # fmt: skip
_TAKES = (
    f"Give a file that ends with {', '.join(_SUFFIXES)}, a run folder, or the folder of an export"
)
# Whose routes have the options of `open_model`: torch runs the network itself.
WITH_OPTIONS = (CHECKPOINT, SAFETENSORS, HUGGINGFACE)


class Model(NamedTuple):
    """Where a model is.

    Args:
        format: checkpoint, onnx, torch_export, torchscript, huggingface or safetensors.
        path: Its file; of huggingface its folder.
    """

    format: str
    path: Path


def locate(path: str | Path) -> Model:
    """Find out what a path leads to, without opening it.

    Args:
        path: A checkpoint, a run folder (its best checkpoint, or what it has exported), an exported
            file, or the folder of an export.

    Raises:
        ConfigError: no such path, or neither of these.
    """
    found = Path(path)
    if found.is_dir():
        return _in_folder(found) or _exported_by(found) or Model(CHECKPOINT, _checkpoint(found))
    if not found.is_file():
        names = [name.name for suffix in _SUFFIXES for name in found.parent.glob(f"*{suffix}")]
        if "://" in str(path):
            find_checkpoint(str(path))  # which says what is wrong with it
        raise ConfigError(
            "ckpt_path", "no such file or folder", got=str(path), remedy=_TAKES, name=found.name,
            options=sorted(names),
        )  # fmt: skip
    if found.name == RECORD:
        return locate(found.parent)
    file_format = _SUFFIXES.get(found.suffix.lower())
    if file_format is None:
        if not is_zipfile(found):
            raise ConfigError("ckpt_path", "is no model", got=str(path), remedy=_TAKES)
        file_format = CHECKPOINT  # as torch writes them, under a name of the user's own
    if file_format == SAFETENSORS and _is_huggingface(found.parent):
        return Model(HUGGINGFACE, found.parent)
    return Model(file_format, found)


def open_model(model: Model, **options: Any) -> Route:
    """Open a model in its runtime.

    Args:
        model: As `locate` has found it.
        options: device, precision, compile, as far as the user gave them.

    Raises:
        ConfigError: a damaged file, a runtime that is not installed, or an option that the format
            has not.
    """
    kind, path = model
    if kind not in WITH_OPTIONS and options:
        name, value = next(iter(options.items()))
        raise ConfigError(
            name, f"has no effect on a model of the format {kind}, which is used as it was "
            "exported", got=value, remedy="Leave it out, or open the checkpoint",
        )  # fmt: skip
    try:
        return _opened(model, options)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing == __name__.partition(".")[0]:
            raise
        raise ConfigError(
            "ckpt_path", f"a model of the format {kind} needs {missing}, which is not installed",
            got=str(path), remedy="Run: pip install -r requirements.txt, or use a model of "
            "--export onnx, which needs onnxruntime, numpy and Pillow alone",
        ) from error  # fmt: skip


def _opened(model: Model, options: Mapping[str, Any]) -> Route:
    kind, path = model
    if kind == ONNX:
        from classifier.inference.onnx_route import open_onnx

        return open_onnx(path)
    if kind == HUGGINGFACE:
        from classifier.inference.huggingface_route import open_folder

        return open_folder(path, **options)
    if kind in WITH_OPTIONS:
        from classifier.inference.weights_route import open_checkpoint, open_weights

        return (open_checkpoint if kind == CHECKPOINT else open_weights)(path, **options)
    from classifier.inference.exported_route import open_exported

    return open_exported(path, kind)


def experiment_of(model: Model) -> str:
    """A name for what is done with an export: its run's, else that of its file or folder.

    Args:
        model: As `locate` has found it.
    """
    folder = model.path if model.format == HUGGINGFACE else model.path.parent
    result = _read_json(folder.parent / "result.json")
    if result.get("mode") == "export" and len(Path(str(result.get("output_dir"))).parts) > 2:
        return Path(*Path(result["output_dir"]).parts[1:-1]).as_posix()
    if model.format != HUGGINGFACE and model.path.name != FILES[model.format]:
        return model.path.stem
    folder = folder.resolve()
    return folder.parent.name if folder.name in FILES else folder.name


def _in_folder(folder: Path) -> Model | None:
    """The export in a folder of its own."""
    if (folder / RECORD).is_file():
        kind = _read_json(folder / RECORD).get("format")
        if not isinstance(kind, str) or kind not in FILES or not (folder / FILES[kind]).exists():
            raise ConfigError(
                "ckpt_path", f"{RECORD} names no model that is in this folder", got=str(folder),
                remedy="Give the model's file",
            )  # fmt: skip
        return Model(kind, folder / FILES[kind])
    if _is_huggingface(folder):
        return Model(HUGGINGFACE, folder)
    files = [(kind, folder / name) for kind, name in FILES.items() if name]
    return _only([Model(kind, file) for kind, file in files if file.is_file()], folder)


def _exported_by(folder: Path) -> Model | None:
    """What a run of --export has left in its run folder, in a sub-folder for the format."""
    if _read_json(folder / "result.json").get("mode") != "export":
        return None
    found = [_in_folder(folder / kind) for kind in FILES if (folder / kind).is_dir()]
    model = _only([model for model in found if model is not None], folder)
    if model is None:
        raise ConfigError(
            "ckpt_path", "the export of this run was not completed", got=str(folder), remedy=_TAKES
        )
    return model


def _only(found: list[Model], folder: Path) -> Model | None:
    if len(found) > 1:
        raise ConfigError(
            "ckpt_path", "the folder holds several models", got=str(folder),
            remedy="Give one of them: " + ", ".join(model.path.as_posix() for model in found),
        )  # fmt: skip
    return found[0] if found else None


def _checkpoint(folder: Path) -> Path:
    return find_checkpoint(str(folder))


def _is_huggingface(folder: Path) -> bool:
    return KEY in _read_json(folder / "config.json")


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON file's mapping; empty where there is no file, or another content."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:  # the last of thousands of brackets
        raise ConfigError(
            "ckpt_path", f"{file.as_posix()} cannot be read", got=str(error)
        ) from error
    return content if isinstance(content, dict) else {}
