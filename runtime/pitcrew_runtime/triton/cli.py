"""`pitcrew-export`: writes an engine in the form that another server loads.

Exit codes: 0 written, 2 refused, with one line `<Reason>: <message>`.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pitcrew_builder import __version__
from pitcrew_runtime.arguments import positive
from pitcrew_runtime.cli import EXIT_REFUSED
from pitcrew_runtime.engine_directory import EngineDirectory, open_engine
from pitcrew_runtime.errors import StartupError
from pitcrew_runtime.triton.configuration import ENGINE, MAX_BATCH_SIZE, ON_FAULT
from pitcrew_runtime.triton.guard import OnFault
from pitcrew_runtime.triton.parameters import settings
from pitcrew_runtime.triton.repository import Export, write


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `pitcrew-export`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    asked = _parser().parse_args(arguments)
    try:
        print(_export(asked))
    except StartupError as error:
        print(error.line, file=sys.stderr)
        return EXIT_REFUSED
    return 0


def _export(asked: argparse.Namespace) -> Path:
    engine = open_engine(asked.engine, None)
    world_size = str(engine.manifest.world_size)
    export = Export(
        name=asked.name or engine.manifest.identity.slug,
        engine=engine,
        options={"world-size": world_size, ON_FAULT: asked.on_fault, **dict(asked.option)},
        max_batch_size=asked.max_batch_size,
        link=asked.link,
    )
    _check(export, engine, trial=asked.trial)
    return write(export, asked.output)


def _check(export: Export, engine: EngineDirectory, *, trial: bool) -> None:
    """Raises a `StartupError` where the model would not get ready."""
    root = engine.root.resolve()
    found = settings(export.name, root.parent, {ENGINE: root.name, **export.options})
    if not trial:
        return
    # Imported late: this brings the executor.
    from pitcrew_runtime.triton.hosting import Hosting

    Hosting(found).close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pitcrew-export", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"pitcrew {__version__}")
    formats = parser.add_subparsers(required=True, metavar="FORMAT")
    triton = formats.add_parser(
        "triton", help="a model repository for NVIDIA's Triton Inference Server"
    )
    add = triton.add_argument
    add("--engine", type=Path, required=True, metavar="DIR", help="directory with manifest.json")
    add("--output", type=Path, required=True, metavar="REPO", help="the model repository")
    add("--name", metavar="NAME", help="of the model (default: the engine's)")
    add(
        "--max-batch-size",
        type=positive,
        default=MAX_BATCH_SIZE,
        metavar="N",
        help="texts in one request (default: %(default)s)",
    )
    add(
        "--option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one of pitcrew-serve's, such as kv-memory=2Gi or speculative=ngram; may be repeated",
    )
    add(
        "--on-fault",
        choices=[one.value for one in OnFault],
        default=OnFault.TELL.value,
        help="what an engine does that is lost or hangs: tell each request, or end the server, for "
        "Kubernetes to start it anew (default: %(default)s)",
    )
    add(
        "--link",
        action="store_true",
        help="point to the engine where it is, instead of copying it",
    )
    add(
        "--trial",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="load the engine and let it repeat its canary before it is exported (default: on)",
    )
    return parser


def _option(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name.removeprefix("--"), value


if __name__ == "__main__":
    sys.exit(main())
