"""From files to batches."""

import os

# Without this the import of Albumentations asks the package index for a newer release.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
