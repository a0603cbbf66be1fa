"""`pitcrew-build`: build an engine, show one, verify one."""

import argparse
import json
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import ValidationError

from pitcrew_builder import __version__
from pitcrew_builder.console import Style, progress_sink
from pitcrew_builder.errors import (
    BuildError,
    InvalidSpec,
    as_build_error,
    exit_code,
    to_failed,
)
from pitcrew_builder.manifest import short_id
from pitcrew_builder.report import Failed, Resolved, Succeeded
from pitcrew_builder.s3.address import SCHEME, S3Address
from pitcrew_builder.spec import BuildSpec

_NOTHING: Mapping[str, Any] = {}
_DEGREES = {
    "tensor": "ranks that share each layer (default: 1)",
    "pipeline": "ranges of layers, one after the other (default: 1)",
    "expert": "ranks that share the experts of a mixture (default: 1)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; see `report` for what the codes mean."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except BuildError as error:
        print(f"pitcrew-build: {error}", file=sys.stderr)
        return exit_code(to_failed(error))
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
    _add_spec(parser)
    parser.add_argument("--store", default="engines", metavar="DIR|s3://BUCKET/PREFIX")
    parser.add_argument("--store-endpoint", metavar="URL", help="an S3-compatible server")
    parser.add_argument("--store-region", metavar="NAME", help="region of the bucket")
    parser.add_argument("--outcome", type=Path, metavar="FILE", help="write the outcome as JSON")
    parser.add_argument("--progress", type=Style, choices=list(Style), default=Style.AUTO)
    parser.set_defaults(run=_build)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    _add_spec(parser)
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
    _add_spec(parser)
    parser.add_argument("--gpu", metavar="PRODUCT", help="what each rank would have")
    parser.add_argument("--gpu-memory", type=int, metavar="BYTES", help="memory of that GPU")
    parser.add_argument("--outcome", type=Path, metavar="FILE", help="default: standard output")
    parser.set_defaults(run=_resolve)


def _add_spec(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--model",
        metavar="DIR|S3|REPO",
        help="a checkpoint directory, s3://bucket/prefix or a hub repo",
    )
    what.add_argument("--spec-json", metavar="JSON", help="the whole build spec as one document")
    parser.add_argument("--revision", help="branch, tag or commit on the hub (default: main)")
    parser.add_argument("--endpoint", metavar="URL", help="a Hugging Face or S3 compatible server")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="DIR|REPO[=WEIGHT]",
        help="a LoRA adapter to merge; may be given several times",
    )
    parser.add_argument(
        "--max-loras",
        type=int,
        metavar="N",
        help="leave room for LoRA adapters that are chosen while serving: so many in one step",
    )
    parser.add_argument("--max-lora-rank", type=int, metavar="R", help="their rank at most")
    parser.add_argument("--target", help="what executes the engine (default: onnxruntime-cpu)")
    parser.add_argument("--compute-capability", metavar="SM", help="GPU of a plan, such as sm89")
    parser.add_argument("--precision", help="arithmetic of the engine (default: fp32)")
    for degree, shared in _DEGREES.items():
        parser.add_argument(f"--{degree}-parallel", type=int, metavar="RANKS", help=shared)
    parser.add_argument(
        "--weights", metavar="FORMAT", help="fp8, int8 or int4 (default: as they are)"
    )
    parser.add_argument("--method", help="round, awq or gptq (default: by weights, see docs)")
    parser.add_argument("--kv-cache", metavar="FORMAT", help="fp8 or int8 (default: by precision)")
    for purpose, verb in (("calibration", "calibrate on"), ("proof", "hold out and prove with")):
        told = f"JSON lines of your users' prompts to {verb}"
        parser.add_argument(f"--{purpose}", metavar="FILE|URL", help=told)
    parser.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="METRIC=FILE|URL",
        help="questions with references, scored by exact-match, bleu or wer; may be repeated",
    )
    parser.add_argument("--max-batch-size", type=int, metavar="N")
    parser.add_argument("--max-sequence-length", type=int, metavar="TOKENS")
    parser.add_argument("--kv-page-size", type=int, metavar="TOKENS")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="default: ~/.cache/pitcrew")


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
    from pitcrew_builder.plan.spec import checkpoint_of, for_gpu, narrowed

    gpu = gpu_of(options.gpu) if options.gpu else None
    # Sizes need none of the prompts that a quantized spec must name.
    weights, options.weights, options.method = options.weights, None, None
    kv_cache, options.kv_cache = options.kv_cache, None
    is_open = options.spec_json is None and options.target is None
    defaults = for_gpu(gpu, options.precision) if gpu and is_open else {}
    spec = narrowed(_spec(options, defaults), weights, kv_cache)
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
        return resolve(_spec(options), gpu, _cache(options), Tracker(lambda progress: None))
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
        spec = _spec(options)
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


def _spec(options: argparse.Namespace, defaults: Mapping[str, Any] = _NOTHING) -> BuildSpec:
    """The spec as one document, or the flags over `defaults`."""
    try:
        if options.spec_json is not None:
            return BuildSpec.model_validate_json(options.spec_json)
        return BuildSpec.model_validate({**_document(options), **defaults})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'spec'}: {item['msg']}"
            for item in error.errors(include_url=False)
        )
        raise InvalidSpec(f"{problems}; correct the spec") from None


def _document(options: argparse.Namespace) -> dict[str, Any]:
    """The friendly flags as a build spec."""
    shapes = {
        "maxBatchSize": options.max_batch_size,
        "maxSequenceLength": options.max_sequence_length,
        "kvPageSize": options.kv_page_size,
    }
    document: dict[str, Any] = {
        "source": _source(options.model, options.revision, options.endpoint),
        "adapters": [_adapter(text, options.endpoint) for text in options.adapter],
        "shapes": {key: value for key, value in shapes.items() if value is not None},
    }
    degrees = {degree: getattr(options, f"{degree}_parallel") for degree in _DEGREES}
    document["parallelism"] = {key: value for key, value in degrees.items() if value is not None}
    for key in ("target", "precision"):
        if getattr(options, key) is not None:
            document[key] = getattr(options, key)
    if options.compute_capability is not None:
        document["tensorrt"] = {"computeCapability": options.compute_capability}
    room = {"maxAdapters": options.max_loras, "maxRank": options.max_lora_rank}
    if given := {key: value for key, value in room.items() if value is not None}:
        document["lora"] = given
    return document | _quantization(options)


def _quantization(options: argparse.Namespace) -> dict[str, Any]:
    """The sections `quantization` and `proof`, where a flag asks for them."""
    proof = _proof(options)
    wanted = {
        "weights": options.weights,
        "method": options.method,
        "kvCache": options.kv_cache,
    }
    given = {key: value for key, value in wanted.items() if value is not None}
    if options.calibration:
        given["calibration"] = _prompts(options.calibration)
    return {**proof, "quantization": given} if given else proof


def _proof(options: argparse.Namespace) -> dict[str, Any]:
    """The section `proof`, where a flag asks for it."""
    given: dict[str, Any] = {"prompts": _prompts(options.proof)} if options.proof else {}
    if options.task:
        given["tasks"] = [_task(text) for text in options.task]
    return {"proof": given} if given else {}


def _task(text: str) -> dict[str, Any]:
    metric, given, place = text.partition("=")
    if not given:
        raise InvalidSpec(f"--task {text}: write METRIC=FILE, such as exact-match=questions.jsonl")
    return {"metric": metric, "prompts": _prompts(place)}


def _prompts(place: str) -> dict[str, str]:
    return {"url" if re.match(r"https?://", place) else "path": place}


def _adapter(text: str, endpoint: str | None) -> dict[str, Any]:
    """A place, and after an equals sign a number where one is meant."""
    found = re.fullmatch(r"(.+)=(-?[0-9.]+)", text)
    place, weight = found.groups() if found else (text, "1")
    return {"source": _source(place, None, endpoint), "weight": weight}


def _source(text: str, revision: str | None, endpoint: str | None) -> dict[str, Any]:
    if text.startswith(SCHEME):
        return _s3_source(text, endpoint)
    path = Path(text)
    # A repository is called `name` or `owner/name`; anything else can only be a path.
    if path.is_dir() or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", text):
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name)
        return {"kind": "local", "path": str(path), "name": name}
    hub = {"repo": text, "revision": revision, "endpoint": endpoint}
    given = {key: value for key, value in hub.items() if value is not None}
    return {"kind": "huggingFace", **given}


def _s3_source(text: str, endpoint: str | None) -> dict[str, Any]:
    address = S3Address.parse(text, endpoint)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", address.url.rpartition("/")[2])
    place = {"bucket": address.bucket, "prefix": address.prefix, "endpoint": address.endpoint}
    return {"kind": "s3", "name": name, **place}


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
