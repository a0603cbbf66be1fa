"""How progress is shown: JSON lines for machines, a bar for people, or nothing."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from pitcrew_builder.progress import Sink
from pitcrew_builder.report import Progress


class Style(StrEnum):
    """The choices of `--progress`."""

    AUTO = "auto"
    JSON = "json"
    RICH = "rich"
    NONE = "none"


@contextmanager
def progress_sink(style: Style) -> Iterator[Sink]:
    """A sink of that style; `auto` is a bar on a terminal and JSON lines elsewhere."""
    if style is Style.AUTO:
        style = Style.RICH if sys.stdout.isatty() else Style.JSON
    if style is Style.RICH:
        with _bar() as sink:
            yield sink
    else:
        yield _print_line if style is Style.JSON else _ignore


def _print_line(progress: Progress) -> None:
    # Flushed, since the operator reads the log of a running pod.
    print(progress.model_dump_json(by_alias=True), flush=True)


def _ignore(progress: Progress) -> None:
    pass


@contextmanager
def _bar() -> Iterator[Sink]:
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("[bold]{task.fields[phase]:<9}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Bar(*columns) as bar:
        task = bar.add_task("", total=100, phase="")

        def show(progress: Progress) -> None:
            bar.update(
                task,
                completed=progress.percent,
                description=progress.message,
                phase=progress.phase.value,
            )

        yield show
