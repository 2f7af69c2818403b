"""Start-up: what the first answer costs, as a ratio to `import torch` and to Lightning's CLI.

    python benchmarks/startup.py [ROUNDS]        (default: 7)

Every round runs each command once, in turn, in a process of its own; medians and the span from the
first to the third quartile are printed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "import torch": ["-c", "import torch"],
    "import lightning.pytorch": ["-c", "import lightning.pytorch"],
    "import lightning.pytorch.cli": ["-c", "import lightning.pytorch.cli"],
    "main.py --help": ["main.py", "--help"],
    "missing file": ["main.py", "--config", "no-such-file.yaml"],
    "import classifier.execution": ["-c", "import classifier.execution"],
    "main.py --print_config": ["main.py", "--print_config", "--config", "configs/quickstart.yaml"],
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=False)
    return time.perf_counter() - started


def measure(rounds: int) -> dict[str, list[float]]:
    """Times of every command, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for arguments in COMMANDS.values():
        seconds(arguments)  # fill the disk cache
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    return times


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    times = measure(rounds)
    torch = statistics.median(times["import torch"])
    cli = statistics.median(times["import lightning.pytorch.cli"])
    print(f"| command (n = {rounds}) | seconds | quartiles | x import torch | x Lightning's CLI |")
    print("|---|---|---|---|---|")
    for name, values in times.items():
        middle = statistics.median(values)
        low, _, high = statistics.quantiles(values, n=4)
        print(
            f"| {name} | {middle:.2f} | {low:.2f}-{high:.2f} "
            f"| {middle / torch:.2f} | {middle / cli:.2f} |"
        )


if __name__ == "__main__":
    main()
