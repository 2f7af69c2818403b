"""Images in folders, and the images that a command line names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from classifier.data.datasets import Augmentations, FilesDataset, PackedSamples, Sample
from classifier.data.paths import find_images, named_images
from classifier.errors import ConfigError


class FolderImageDataset(FilesDataset):
    """Images in a folder with one sub-folder per class, or flat for prediction.

    Args:
        root: The folder. Each direct sub-folder is a class, and needs images below it. Files and
            folders whose names begin with a dot, and files that are no images, are ignored.
        augmentations: An Albumentations pipeline; the data module sets the stage's own here.
    """

    def __init__(self, root: str, augmentations: Augmentations | None = None) -> None:
        super().__init__(augmentations)
        self.root = root
        # Direct sub-folders without an image -> what they hold; known when the root is scanned.
        self.empty_folders: dict[str, str] = {}

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
        found = find_images(root)
        if not found.images:
            raise ConfigError(
                "root", f"no images in this folder; it holds {_contents(root)}", got=self.root,
                remedy="Put images into it, in one sub-folder per class for training",
            )  # fmt: skip
        self.empty_folders = {name: _contents(root / name) for name in found.empty}
        return PackedSamples(
            Sample(path, path.partition("/")[0] if "/" in path else None) for path in found.images
        )

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
        self._files: Sequence[Sample] = ()  # under the path of each file

    def scan(self) -> Sequence[Sample]:
        """Find the images, sorted by path.

        Raises:
            ConfigError: a path that does not exist, or no image at all.
        """
        found = named_images(self.paths, self.flag)
        self._files = PackedSamples(Sample(str(file), None) for file in found.values())
        return PackedSamples(Sample(row, None) for row in found)

    def file(self, index: int) -> Path:
        """The file of sample `index`."""
        return Path(self._files[index].path)


def _contents(root: Path) -> str:
    try:
        entries = list(root.iterdir())
    except OSError as error:
        return f"what cannot be listed ({error.strerror})"
    folders = sum(entry.is_dir() for entry in entries)
    extensions = sorted({entry.suffix or entry.name for entry in entries if entry.is_file()})
    shown = f" ({', '.join(extensions[:5])})" if extensions else ""
    return f"{folders} folders and {len(entries) - folders} files{shown}"
