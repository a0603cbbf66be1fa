"""The flags that describe a build, and the spec that they make."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.s3.address import SCHEME, S3Address
from pitcrew_builder.spec import BuildSpec
from pitcrew_builder.validation import problems

_NOTHING: Mapping[str, Any] = {}
_DEGREES = {
    "tensor": "ranks that share each layer (default: 1)",
    "pipeline": "ranges of layers, one after the other (default: 1)",
    "expert": "ranks that share the experts of a mixture (default: 1)",
}
SPEC_FLAGS = (
    "revision",
    "endpoint",
    "adapter",
    "max_loras",
    "max_lora_rank",
    "target",
    "compute_capability",
    "precision",
    *(f"{degree}_parallel" for degree in _DEGREES),
    "weights",
    "method",
    "kv_cache",
    "calibration",
    "proof",
    "task",
    "max_batch_size",
    "max_sequence_length",
    "kv_page_size",
)
"""Beside a model, what the flags tell of a build, by the names of the options."""


def add_spec(parser: argparse.ArgumentParser) -> None:
    """Give a command every flag of a build spec."""
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


def spec_of(options: argparse.Namespace, defaults: Mapping[str, Any] = _NOTHING) -> BuildSpec:
    """The spec as one document, or the flags over `defaults`. Raises `InvalidSpec`."""
    try:
        if options.spec_json is not None:
            _check_alone(options)
            return BuildSpec.model_validate_json(options.spec_json)
        return BuildSpec.model_validate({**defaults, **_document(options)})
    except ValidationError as error:
        raise InvalidSpec(f"{problems(error)}; correct the spec") from None


def _check_alone(options: argparse.Namespace) -> None:
    """Refuse flags beside a whole document, which would not count."""
    given = [f"--{name.replace('_', '-')}" for name in SPEC_FLAGS if getattr(options, name)]
    if given:
        raise InvalidSpec(
            f"{', '.join(given)} beside --spec-json, which is the whole spec; put it into the document"
        )


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
