"""How long a newcomer waits: every stage of `make demo`, cold once and warm several times.

Warm is what a second `make demo` costs after `make demo-down`: binaries and image layers cached,
cluster and release gone. Cold adds the first build of everything, in an empty cache folder. Prints
one table with the machine's name on top; times are seconds, medians over the warm runs.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
CACHES = ("PITCREW_CACHE", "GOCACHE", "GOMODCACHE", "UV_CACHE_DIR")


def demo(environment: Mapping[str, str]) -> dict[str, Any]:
    """Run `make demo` and return its record of stages; the cluster is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "timings.json"
        command = [sys.executable, "samples/demo.py", "--timings", str(record)]
        try:
            subprocess.run(command, cwd=ROOT, env=environment, check=True)
            document: dict[str, Any] = json.loads(record.read_text())
            return document | {"sizes": measure(environment)}
        finally:
            down = [sys.executable, "-m", "devcluster", "down"]
            subprocess.run(down, cwd=ROOT, env=environment, check=True)


def measure(environment: Mapping[str, str]) -> dict[str, str]:
    """Image sizes and the operator's resident memory, while the cluster still runs."""

    def output(*command: str) -> str:
        return subprocess.run(
            command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        ).stdout

    devcluster = (sys.executable, "-m", "devcluster")
    tools, kubeconfig = output(*devcluster, "tools"), output(*devcluster, "kubeconfig")
    kubectl = (f"{tools.strip()}/kubectl", "--kubeconfig", kubeconfig.strip())
    status = output(
        *(*kubectl, "-n", "pitcrew-system", "exec", "deploy/pitcrew", "--"),
        *("python3", "-c", "print(open('/proc/1/status').read())"),
    )
    resident = int(next(x for x in status.splitlines() if x.startswith("VmRSS")).split()[1])
    images = [line.split() for line in output(*devcluster, "build").splitlines()]
    sizes = {f"image {words[0].split('/')[-1]}": " ".join(words[1:3]) for words in images}
    return sizes | {"operator RSS": f"{resident / 1024:.0f} MiB"}


def machine() -> str:
    """The processor, cores, memory and kernel of this machine in one line."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((x.split(":")[1].strip() for x in info.splitlines() if "model name" in x), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, {memory:.0f} GiB, Linux {platform.release()}"


def table(cold: dict[str, Any] | None, warm: list[dict[str, Any]]) -> Table:
    """Stages as rows, cold and median warm seconds as columns."""
    result = Table(title=f"First run on {machine()}", title_justify="left")
    result.add_column("stage")
    result.add_column("cold s", justify="right")
    result.add_column(f"warm s, median of {len(warm)} (min-max)", justify="right")

    def row(name: str, cold_value: float | None, values: list[float]) -> None:
        spread = f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"
        result.add_row(name, f"{cold_value:.1f}" if cold_value is not None else "", spread)

    for stage in warm[0]["stages"]:
        before = cold["stages"][stage] if cold else None
        row(stage, before, [run["stages"][stage] for run in warm])
    for label, key in (("until the first token", "firstToken"), ("whole demo", "total")):
        row(label, cold[key] if cold else None, [run[key] for run in warm])
    result.add_section()
    for name, value in warm[-1]["sizes"].items():
        result.add_row(name, "", value)
    return result


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cold", action="store_true", help="also run once with empty caches")
    parser.add_argument("--warm", type=int, default=3, metavar="N", help="warm runs (default 3)")
    args = parser.parse_args()
    cold = None
    with tempfile.TemporaryDirectory(prefix="pitcrew-cold-") as folder:
        if args.cold:
            cold = demo({**os.environ, **{name: f"{folder}/{name.lower()}" for name in CACHES}})
            subprocess.run(["chmod", "-R", "u+w", folder], check=True)  # Go's cache is read-only
    demo(os.environ)  # fills the caches where they are empty, and is not counted
    warm = [demo(os.environ) for _ in range(args.warm)]
    Console(width=110).print(table(cold, warm))


if __name__ == "__main__":
    main()
