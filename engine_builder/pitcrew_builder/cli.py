"""`pitcrew-build`: build an engine, show one, verify one."""

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pitcrew_builder import __version__
from pitcrew_builder.console import Style, progress_sink
from pitcrew_builder.errors import InvalidSpec, as_build_error, exit_code, to_failed
from pitcrew_builder.flags import add_spec, spec_of
from pitcrew_builder.manifest import short_id
from pitcrew_builder.report import Failed, Resolved, Succeeded

_UNREAD = "prompts.jsonl"
"""A place for prompts that nobody reads."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; see `report` for what the codes mean."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        failed = to_failed(as_build_error(error))
        print(f"pitcrew-build: {failed.message}", file=sys.stderr)
        return exit_code(failed)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pitcrew-build",
        description="Turn a Hugging Face checkpoint into a proven, content-addressed engine.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_build(commands.add_parser("build", help="build an engine, or find it in the store"))
    _add_plan(commands.add_parser("plan", help="predict sizes and capacity, and build nothing"))
    _add_resolve(
        commands.add_parser("resolve", help="name the engine that a build would make, as JSON")
    )
    for name, run, text in (
        ("show", _show, "print what an engine is"),
        ("verify", _verify, "check every file of an engine against its manifest"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("engine", type=Path, metavar="ENGINE_DIR")
        command.set_defaults(run=run)
    return parser


def _add_build(parser: argparse.ArgumentParser) -> None:
    add_spec(parser)
    parser.add_argument("--store", default="engines", metavar="DIR|s3://BUCKET/PREFIX")
    parser.add_argument("--store-endpoint", metavar="URL", help="an S3-compatible server")
    parser.add_argument("--store-region", metavar="NAME", help="region of the bucket")
    parser.add_argument("--outcome", type=Path, metavar="FILE", help="write the outcome as JSON")
    parser.add_argument("--progress", type=Style, choices=list(Style), default=Style.AUTO)
    parser.set_defaults(run=_build)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    add_spec(parser)
    parser.add_argument(
        "--gpu", metavar="PRODUCT", help="such as H100; its target is TensorRT unless one is named"
    )
    parser.add_argument(
        "--average-length",
        type=int,
        metavar="TOKENS",
        help="prompt and answer of a usual sequence (default: half of the greatest length)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_plan)


def _add_resolve(parser: argparse.ArgumentParser) -> None:
    add_spec(parser)
    parser.add_argument("--gpu", metavar="PRODUCT", help="what each rank would have")
    parser.add_argument("--gpu-memory", type=int, metavar="BYTES", help="memory of that GPU")
    parser.add_argument("--outcome", type=Path, metavar="FILE", help="default: standard output")
    parser.set_defaults(run=_resolve)


def _build(options: argparse.Namespace) -> int:
    with _cancellable():
        outcome = _attempt(options)
    if options.outcome is not None:
        _write_outcome(options.outcome, outcome)
    if isinstance(outcome, Failed):
        print(f"pitcrew-build: {outcome.reason}: {outcome.message}", file=sys.stderr)
        return exit_code(outcome)
    for warning in outcome.warnings:
        print(f"pitcrew-build: warning: {warning}", file=sys.stderr)
    found = "found" if outcome.cached else "published"
    print(f"{found} {outcome.tag} at {options.store}/{outcome.path}", file=sys.stderr)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from pitcrew_builder.plan import console
    from pitcrew_builder.plan.advise import answer
    from pitcrew_builder.plan.gpus import gpu_of
    from pitcrew_builder.plan.spec import check_product, checkpoint_of, for_gpu

    gpu = None if options.gpu is None else gpu_of(options.gpu)
    if options.spec_json is None and (options.weights or options.kv_cache):
        # Sizes need none of the prompts that a narrow engine is made and proven with.
        options.calibration = options.calibration or _UNREAD
    is_open = options.spec_json is None and options.target is None
    spec = spec_of(options, for_gpu(gpu, options.precision) if gpu and is_open else {})
    check_product(spec, gpu)
    predicted = answer(spec, checkpoint_of(spec, _cache(options)), gpu, options.average_length)
    if options.json:
        print(json.dumps(console.document(spec, predicted), indent=2))
    else:
        console.show(spec, predicted)
    if not predicted.fits:
        raise InvalidSpec(console.refusal(spec, predicted))
    return 0


def _resolve(options: argparse.Namespace) -> int:
    with _cancellable():
        outcome = _resolved(options)
    if options.outcome is None:
        print(outcome.model_dump_json(by_alias=True, indent=2))
    else:
        _write_outcome(options.outcome, outcome)
    if isinstance(outcome, Failed):
        print(f"pitcrew-build: {outcome.reason}: {outcome.message}", file=sys.stderr)
        return exit_code(outcome)
    return 0


def _resolved(options: argparse.Namespace) -> Resolved | Failed:
    from pitcrew_builder.plan.gpus import gpu_of, gpu_with
    from pitcrew_builder.progress import Tracker
    from pitcrew_builder.resolve import resolve

    try:
        gpu = None
        if options.gpu is not None:
            memory = options.gpu_memory
            gpu = gpu_of(options.gpu) if memory is None else gpu_with(options.gpu, memory)
        return resolve(spec_of(options), gpu, _cache(options), Tracker(lambda progress: None))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        return to_failed(as_build_error(error))


def _cache(options: argparse.Namespace) -> Path:
    cache: Path = options.cache or Path.home() / ".cache" / "pitcrew"
    return cache


def _write_outcome(file: Path, outcome: Succeeded | Resolved | Failed) -> None:
    # In place: in a container this is a mount, which no rename can replace.
    try:
        file.write_text(outcome.model_dump_json(by_alias=True))
    except OSError as error:
        raise as_build_error(error) from error


def _attempt(options: argparse.Namespace) -> Succeeded | Failed:
    from pitcrew_builder.pipeline import Places, build
    from pitcrew_builder.progress import Tracker
    from pitcrew_builder.store.address import parse_store

    try:
        spec = spec_of(options)
        store = parse_store(options.store, options.store_endpoint, options.store_region)
        with progress_sink(options.progress) as sink:
            return build(spec, Places(store, _cache(options)), Tracker(sink))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        return to_failed(as_build_error(error))


@contextmanager
def _cancellable() -> Iterator[None]:
    """Inside, SIGTERM does what a terminal's interrupt does: no ordinary handler swallows it."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        # Once is enough: a second signal would interrupt the clean-up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show(options: argparse.Namespace) -> int:
    from pitcrew_builder.explain.summary import explain
    from pitcrew_builder.explain.text import show
    from pitcrew_builder.store import Store

    show(explain(Store(options.engine.parent), options.engine.name))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from pitcrew_builder.store import open_engine

    manifest = open_engine(options.engine)
    print(f"{manifest.tag}: {len(manifest.files)} files agree with {short_id(manifest.engine_id)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
