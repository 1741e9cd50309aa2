r"""What an import costs: `import oculi` beyond `import torch`, and `oculi list`, each in fresh processes.

    python benchmarks/import_time.py

Interleaved repetitions, medians; the seconds are those of whole processes. `names`
fetches what predicting needs too. Prints one line of JSON.
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

COMMANDS = {
    "torch": "import torch",
    "torch_and_oculi": "import torch, oculi",
    "names": "import torch, oculi; oculi.System, oculi.Batch, oculi.predict, oculi.InputContract",
    "list": "import sys; from oculi.cli import main; sys.exit(main(['list']))",
    "show": "import sys; from oculi.cli import main; sys.exit(main(['show', 'resnet']))",
}


def seconds(code: str) -> float:
    """One fresh process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    repetitions = parser.parse_args().repetitions
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for repetition in range(repetitions + 1):
        for name, code in COMMANDS.items():
            found = seconds(code)
            if repetition:  # the first fills the file cache
                taken[name].append(found)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    described = {
        "oculi_beyond_torch_s": round(medians["torch_and_oculi"] - medians["torch"], 3),
        "names_beyond_torch_s": round(medians["names"] - medians["torch"], 3),
        "list_s": round(medians["list"], 3),
        "show_s": round(medians["show"], 3),
        "torch_s": round(medians["torch"], 3),
        "repetitions": repetitions,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    print(json.dumps(described))


if __name__ == "__main__":
    main()
