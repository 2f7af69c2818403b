"""A program that tells what it was given, and misbehaves on request."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from classifier.runs import trial_folder
from classifier.tuning.launching import end_with_driver


def program(words: Sequence[str]) -> int:
    """Do what the first word says."""
    folder = trial_folder()
    assert folder is not None
    if words[0] == "tell":
        print("on stdout", flush=True)
        print("on stderr", file=sys.stderr, flush=True)
        told = {
            "words": list(words),
            "given": os.environ.get("GIVEN"),
            "run_dir": os.environ.get("CLASSIFIER_RUN_DIR"),
            "pid": os.getpid(),
            "group": os.getpgrp(),
            "start_method": multiprocessing.get_start_method(),
        }
        (folder / "told.json").write_text(json.dumps(told))
        return 7
    if words[0] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if words[0] == "raise":
        raise RuntimeError("as asked")
    if words[0] in ("sleep", "ignore"):
        if words[0] == "ignore":
            signal.signal(signal.SIGTERM, lambda *_: None)
        grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (folder / "grandchild").write_text(str(grandchild.pid))
        time.sleep(600)
    return 0


if __name__ == "__main__":
    end_with_driver()
    raise SystemExit(program(sys.argv[1:]))
