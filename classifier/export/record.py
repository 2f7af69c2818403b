"""export.json: what an exported file is, what it was made from, and how it was verified."""

from __future__ import annotations

import hashlib
import json
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from classifier.export.verification import Verification
from classifier.files import write_text
from classifier.formats import FILES, RECORD
from classifier.inference.description import Description
from classifier.masking import shareable

_PACKAGES = ("torch", "timm", "transformers", "onnx", "onnxruntime", "numpy", "pillow")


def write_record(
    folder: Path, description: Description, checkpoint: Path, verification: Verification
) -> dict[str, Any]:
    """Write what is told of an export beside its file.

    Args:
        folder: In which the file lies.
        description: That the file carries.
        checkpoint: The file from which it was made.
        verification: That it has passed.

    Returns:
        The content.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    hashes = {path.relative_to(folder).as_posix(): sha256(path) for path in paths}
    name = FILES[description.format]
    content = {
        "format": description.format,
        "file": name,
        "bytes": sum(path.stat().st_size for path in paths),
        "sha256": hashes[name or FILES["safetensors"]],
        "files": hashes,
        "description": description.to_dict(),
        "checkpoint": {"path": shareable(str(checkpoint)), "sha256": sha256(checkpoint)},
        "verification": verification.to_dict(),
        "software": {"python": platform.python_version(), **_versions(), **description.software},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_text(folder / RECORD, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    for path in paths:
        # safetensors lets nobody else read its files, such as the user of a container.
        path.chmod((folder / RECORD).stat().st_mode)
    return content


def sha256(file: Path) -> str:
    """The hash of a file's bytes, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # an export to another format needs it
    return found
