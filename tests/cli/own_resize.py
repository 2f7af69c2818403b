"""A transform of a user's own, named by class path in tests."""

from __future__ import annotations

from typing import Any

import albumentations
import cv2


class OwnResize(albumentations.ImageOnlyTransform):  # type: ignore[misc]
    """Gives every image the same size.

    Args:
        side: In pixels.
    """

    def __init__(self, side: int) -> None:
        super().__init__(p=1.0)
        self.side = side

    def apply(self, img: Any, **params: Any) -> Any:
        return cv2.resize(img, (self.side, self.side))
