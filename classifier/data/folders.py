"""Images in folders, and the images that a command line names."""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from classifier.data.datasets import Augmentations, FilesDataset, Sample
from classifier.data.decoding import IMAGE_EXTENSIONS
from classifier.errors import ConfigError

log = logging.getLogger(__name__)


class FolderImageDataset(FilesDataset):
    """Images in a folder with one sub-folder per class, or flat for prediction.

    Args:
        root: The folder. Each direct sub-folder with images below it is a class. Files whose names
            begin with a dot, and files that are no images, are ignored.
        augmentations: An Albumentations pipeline; the data module sets the stage's own here.
    """

    def __init__(self, root: str, augmentations: Augmentations | None = None) -> None:
        super().__init__(augmentations)
        self.root = root

    def scan(self) -> Sequence[Sample]:
        """Find the images below the root, sorted by path.

        Raises:
            ConfigError: no such folder, or no image in it.
        """
        root = Path(self.root)
        if not root.is_dir():
            problem = "is a file, not a folder" if root.exists() else "no such folder"
            raise ConfigError(
                "root", problem, got=self.root,
                remedy=f"Relative paths start at {os.getcwd()}",
            )  # fmt: skip
        paths = sorted(find_images(root))
        if not paths:
            raise ConfigError(
                "root", f"no images in this folder; it holds {_contents(root)}", got=self.root,
                remedy="Put images into it, in one sub-folder per class for training",
            )  # fmt: skip
        return [Sample(path, path.partition("/")[0] if "/" in path else None) for path in paths]

    def file(self, index: int) -> Path:
        """The file of sample `index`."""
        return Path(os.path.join(self.root, self.samples[index].path))


class ImagePathsDataset(FilesDataset):
    """The images that `--predict a.jpg photos/` names: files and folders, flat or nested.

    Args:
        paths: Files and folders. With one folder alone a row's path is relative to it; otherwise
            it is the path as given, so that every row leads to its file.
        augmentations: An Albumentations pipeline; the data module sets the stage's own here.
        flag: What names them, for messages.
    """

    def __init__(
        self,
        paths: Sequence[str],
        augmentations: Augmentations | None = None,
        flag: str = "--predict",
    ) -> None:
        super().__init__(augmentations)
        self.paths = list(paths)
        self.flag = flag
        self._files: list[str] = []  # a Path keeps more, once it was used

    def scan(self) -> Sequence[Sample]:
        """Find the images, sorted by path.

        Raises:
            ConfigError: a path that does not exist, or no image at all.
        """
        found: dict[str, Path] = {}
        alone = len(self.paths) == 1
        for name in self.paths:
            path = Path(name)
            if path.is_dir():
                for relative in find_images(path):
                    row = relative if alone else (path / relative).as_posix()
                    found[row] = path / relative
            elif path.is_file():
                found[path.as_posix()] = path
            else:
                raise ConfigError(
                    self.flag, "no such file or folder", got=name,
                    remedy="Name images or folders of images",
                )  # fmt: skip
        if not found:
            raise ConfigError(
                self.flag, "no images found", got=self.paths,
                remedy="Name images or folders of images",
            )  # fmt: skip
        self._files = [str(found[row]) for row in sorted(found)]
        return [Sample(row, None) for row in sorted(found)]

    def file(self, index: int) -> Path:
        """The file of sample `index`."""
        return Path(self._files[index])


def find_images(root: Path) -> Iterator[str]:
    """The images below a folder, as paths relative to it with forward slashes.

    Symbolic links are followed, each real folder once, so that a loop ends.

    Yields:
        Paths in no particular order.
    """
    seen: set[str] = set()
    ignored: Counter[str] = Counter()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in files:
            extension = os.path.splitext(name)[1].lower()
            if extension in IMAGE_EXTENSIONS and not name.startswith("."):
                if not _can_be_read(os.path.join(folder, name)):
                    ignored[f"{extension} that is a pipe or device"] += 1
                    continue
                yield Path(folder, name).relative_to(root).as_posix()
            elif not name.startswith(".") and name.lower() not in ("thumbs.db", "desktop.ini"):
                ignored[extension or "no extension"] += 1
    if ignored:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in ignored.most_common(5))
        log.info("%s: ignored %d files that are no images (%s)", root, ignored.total(), kinds)


def _can_be_read(file: str) -> bool:
    """Whether a file is one, or a link to nowhere, of which decoding tells."""
    try:
        return stat.S_ISREG(os.stat(file).st_mode)
    except OSError:
        return True


def _contents(root: Path) -> str:
    entries = list(root.iterdir())
    folders = sum(entry.is_dir() for entry in entries)
    extensions = sorted({entry.suffix or entry.name for entry in entries if entry.is_file()})
    shown = f" ({', '.join(extensions[:5])})" if extensions else ""
    return f"{folders} folders and {len(entries) - folders} files{shown}"
