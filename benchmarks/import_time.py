r"""What an import costs: `import oculi` after `import torch`, and `oculi list`, each in fresh processes.

    python benchmarks/import_time.py

Medians over interleaved processes. An import is timed inside its process, since torch's own varies by more than oculi
takes; `names` fetches what predicting needs too. `list` and `show` are whole processes. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

TIMED = "import time, torch; began = time.perf_counter(); {}; print(time.perf_counter() - began)"
IMPORTS = {
    "oculi_s": "import oculi",
    "names_s": "import oculi; oculi.System, oculi.Batch, oculi.predict, oculi.InputContract",
}
VERBS = {"list_s": ["list"], "show_s": ["show", "resnet"]}


def import_seconds(code: str) -> float:
    """What `code` takes after `import torch`."""
    script = TIMED.format(code)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, capture_output=True, text=True)
    return float(done.stdout)


def verb_seconds(words: list[str]) -> float:
    """One whole process of the command line."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "oculi.cli", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    repetitions = parser.parse_args().repetitions
    taken: dict[str, list[float]] = {name: [] for name in (*IMPORTS, *VERBS)}
    for repetition in range(repetitions + 1):
        found = {name: import_seconds(code) for name, code in IMPORTS.items()}
        found |= {name: verb_seconds(words) for name, words in VERBS.items()}
        for name, value in found.items():
            if repetition:  # the first fills the file cache
                taken[name].append(value)
    described = {
        **{name: round(statistics.median(values), 4) for name, values in taken.items()},
        "repetitions": repetitions,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    print(json.dumps(described))


if __name__ == "__main__":
    main()
