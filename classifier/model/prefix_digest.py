"""One digest for frozen parts of networks that make the same of an image."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn

# Libraries whose code is told by their version; other code is told by its file.
_LIBRARIES = ("torch", "torchvision", "timm", "transformers", "peft")


def digest_of(network: nn.Module, cut: str, parts: Iterable[tuple[str, nn.Module, bool]]) -> str:
    """The digest of weights, architecture and code.

    Args:
        network: The whole.
        cut: Name of the module with which the frozen part ends.
        parts: The modules that make it up: name, module, and whether what is within it counts too.
    """
    told = hashlib.blake2b(digest_size=16)
    used = {type(module).__module__.partition(".")[0] for module in network.modules()}
    versions = {name: _version(name) for name in _LIBRARIES if name in {"torch", *used}}
    facts = [cut, versions, getattr(network, "spec", {}), torch.get_float32_matmul_precision()]
    told.update(json.dumps(facts, sort_keys=True, default=repr).encode())
    for file in _own_files(network):
        told.update(file.read_bytes())
    for name, module, whole in parts:
        told.update(f"{name}: {type(module).__qualname__}".encode())
        for key, value in _frozen_values(module, recurse=whole):
            told.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().view(-1)
            told.update(flat.view(torch.uint8).numpy().data)
    return told.hexdigest()


def _frozen_values(module: nn.Module, *, recurse: bool) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in module.named_parameters(recurse=recurse):
        if not parameter.requires_grad:
            yield name, parameter
    yield from module.named_buffers(recurse=recurse)


def _own_files(network: nn.Module) -> list[Path]:
    """The source files that may decide what modules of no library do.

    Of this program those of the modules' classes. A user's own module may use whatever the user
    wrote: all files that were imported and belong to no installed package.
    """
    classes = {base for module in network.modules() for base in type(module).__mro__}
    tops = {cls: cls.__module__.partition(".")[0] for cls in classes}
    known = {*_LIBRARIES, *sys.stdlib_module_names}
    own = [cls for cls, top in tops.items() if top not in known]
    files = {Path(inspect.getfile(cls)) for cls in own}
    if any(tops[cls] != "classifier" for cls in own):
        installed = tuple(sysconfig.get_paths()[key] for key in ("stdlib", "purelib", "platlib"))
        names = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
        files |= {Path(name) for name in names if name and not name.startswith(installed)}
    return sorted(file for file in files if file.suffix == ".py" and file.is_file())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
