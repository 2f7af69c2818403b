"""A whole sweep over the program of fake_training.

    python -m tests.tuning.fake_driver CONFIG.yaml [pictures] [impatient]

Its report is drawn on request only: that takes longer than all the rest. An impatient one gives a
trial 0.3 s to write its checkpoint.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import yaml

from classifier.errors import ConfigError, Interrupted, RunError
from classifier.tuning import driver
from classifier.tuning import sweep as sweeping
from tests.tuning import fake_training


def main() -> int:
    """Run it as the real program does, exit codes included."""
    tree = yaml.safe_load(Path(sys.argv[1]).read_text())
    if "pictures" not in sys.argv:
        sweeping.write_pictures = lambda *_: None
    if "impatient" in sys.argv:
        driver._GRACE_SECONDS = 0.3
    try:
        sweeping.sweep(tree, "study", time.time(), fake_training.program, fake_training.__name__)
    except (ConfigError, RunError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except Interrupted as error:
        return 128 + error.signum
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
