"""Tokens a second and time to the first token, beside llama.cpp and onnxruntime-genai, in one run.

    python bench/serve [--clients 1 8 32] [--repeats 3] [--models NAME...]

All contenders have the same threads, prompts and lengths, and greedy answers that no end token cuts
short. Each repeat takes the contenders in turn; the table gives medians, and ratios of neighbours in
a repeat: like beside like (ours over HTTP beside theirs, ours in process beside theirs), and ours over
HTTP beside all, which the goal is for. What the rivals need is installed on first use, outside of the repository. The load's own
process takes from the same cores and is told in the title. `outside.py` asks with a client that is
not ours.
"""

import argparse
import math
import os
import platform
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from environments import Unavailable
from load import Round, Shape
from models import MODELS, Model
from report import machine
from rich.console import Console
from rich.table import Table
from rivals import CONTENDERS, HTTP, OWN, Answer, Contender

GOALS = {1: 0.8, 8: 1.0, 32: 1.0}
"""By clients: tokens a second, as a part of the best rival's."""
Rounds = Mapping[str, Sequence[Round]]
_REST = 0.3
"""Seconds between rounds: threads of a contender that spin go on for a while, and would take a core
from the next one."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=128, help="tokens")
    parser.add_argument("--output", type=int, default=64, help="tokens")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--models", nargs="+", default=[f"{m.name}-{m.form}" for m in MODELS])
    parser.add_argument("--without", nargs="+", default=[], help="contenders to leave out")
    parser.add_argument("--prepare", action="store_true", help="install and convert, and end")
    options = parser.parse_args()
    shape = Shape(options.prompt, options.output)
    for model in MODELS:
        if f"{model.name}-{model.form}" in options.models:
            compare(model, shape, options)


def compare(model: Model, shape: Shape, options: argparse.Namespace) -> None:
    """One table."""
    with ExitStack() as stack:
        answers, missing = opened(stack, model, shape, options)
        if options.prepare:
            return
        begun = time.perf_counter(), own_cpu()
        found = {
            clients: rounds(answers, shape, clients, options.repeats) for clients in options.clients
        }
        share = (own_cpu() - begun[1]) / (time.perf_counter() - begun[0])
    show(
        model,
        shape,
        found,
        missing,
        f"{options.threads} threads, load generator {share:.0%} of a core",
    )


def opened(
    stack: ExitStack, model: Model, shape: Shape, options: argparse.Namespace
) -> tuple[dict[str, Answer], dict[str, str]]:
    """The contenders that could be started, and why the others could not."""
    answers: dict[str, Answer] = {}
    missing: dict[str, str] = {}
    for contender in CONTENDERS:
        if any(word in contender.name for word in options.without):
            missing[contender.name] = "left out"
            continue
        try:
            opening = contender.open(model, shape, options.threads)
            answers[contender.name] = stack.enter_context(opening)
        except Unavailable as reason:
            missing[contender.name] = str(reason)
    return answers, missing


def rounds(answers: Mapping[str, Answer], shape: Shape, clients: int, repeats: int) -> Rounds:
    """Each contender in turn, after a round for each that is not counted."""
    found: dict[str, list[Round]] = defaultdict(list)
    for repeat in range(repeats + 1):
        for name, answer in answers.items():
            time.sleep(_REST)
            one = answer(shape.prompts(clients, seed=1000 * clients + repeat), shape.output)
            one.check(shape)
            if repeat:
                found[name].append(one)
    return found


def show(
    model: Model, shape: Shape, found: Mapping[int, Rounds], missing: Mapping[str, str], note: str
) -> None:
    """Print the table."""
    title = (
        f"{model.name} {model.form}, {shape.prompt} tokens in, {shape.output} out; {machine()}, "
        f"{note}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("clients", "", "from", "tokens/s", "least", "most", "first token ms", "like / it", "HTTP / it", "goal"):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("", "from") else "right")
    for clients, by_name in found.items():
        for contender in CONTENDERS:
            if contender.name in by_name:
                table.add_row(*cells(clients, contender, by_name))
    console = Console(width=140)
    console.print(table)
    for name, reason in missing.items():
        console.print(f"{name} is missing: {reason}")


def cells(clients: int, contender: Contender, by_name: Rounds) -> list[str]:
    """One row. `like` is our own engine as the contender is asked, over HTTP or in process."""
    its = by_name[contender.name]
    rates = [one.rate for one in its]
    row = [str(clients), contender.name, contender.where]
    row += [f"{value:.0f}" for value in (statistics.median(rates), min(rates), max(rates))]
    row.append(f"{statistics.median(one.first for one in its) * 1e3:.0f}")
    if contender in OWN.values():
        return [*row, "", "", ""]
    like, http = (ratio(by_name, OWN[where].name, its) for where in (contender.where, HTTP))
    goal = GOALS.get(clients)
    told = "" if goal is None else f"≥ {goal} {'met' if http >= goal else 'missed'}"
    return [*row, f"{like:.2f} ×", f"{http:.2f} ×", told]


def ratio(by_name: Rounds, own: str, its: Sequence[Round]) -> float:
    """Median of neighbours' tokens a second; no number where ours is left out."""
    pairs = zip(by_name.get(own, ()), its, strict=False)
    return statistics.median([ours.rate / theirs.rate for ours, theirs in pairs] or [math.nan])


def own_cpu() -> float:
    """Seconds of CPU that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
