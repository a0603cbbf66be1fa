"""Between the messages of gRPC and tensors."""

from typing import Any

from pitcrew_runtime.errors import InvalidRequest
from pitcrew_runtime.kserve.protocol import inference_pb2 as pb
from pitcrew_runtime.kserve.service import VERSION, Response
from pitcrew_runtime.kserve.tensors import BYTES, MAX_TENSORS, Tensor, checked, from_raw, to_raw

_MAX_PARAMETERS = 128
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}


def tensors(request: pb.ModelInferRequest) -> list[Tensor]:
    """The inputs, raw or typed. Raises `InvalidRequest`."""
    raw = request.raw_input_contents
    _check_number("inputs", len(request.inputs), MAX_TENSORS)
    if not raw:
        return [_typed(one) for one in request.inputs]
    if len(raw) != len(request.inputs):
        raise InvalidRequest(f"{len(raw)} raw contents for {len(request.inputs)} inputs")
    return [
        from_raw(one.name, one.datatype, one.shape, content)
        for one, content in zip(request.inputs, raw, strict=True)
    ]


def wanted(request: pb.ModelInferRequest) -> list[str]:
    """Names of the outputs that are asked for. Raises `InvalidRequest`."""
    _check_number("outputs", len(request.outputs), MAX_TENSORS)
    return [output.name for output in request.outputs]


def parameters(request: pb.ModelInferRequest) -> dict[str, Any]:
    """The request's parameters. Raises `InvalidRequest`."""
    _check_number("parameters", len(request.parameters), _MAX_PARAMETERS)
    return {
        name: getattr(one, choice) if (choice := one.WhichOneof("parameter_choice")) else None
        for name, one in request.parameters.items()
    }


def response(request: pb.ModelInferRequest, found: Response) -> pb.ModelInferResponse:
    """A response to `request`, with raw outputs."""
    message = pb.ModelInferResponse(
        model_name=request.model_name, model_version=VERSION, id=request.id
    )
    message.parameters["triton_final_response"].bool_param = found.final
    for one in found.tensors:
        message.outputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
        message.raw_output_contents.append(to_raw(one))
    return message


def _check_number(what: str, number: int, most: int) -> None:
    if number > most:
        raise InvalidRequest(f"{what}: {number} are more than the {most} that are read")


def _typed(one: pb.ModelInferRequest.InferInputTensor) -> Tensor:
    contents = _CONTENTS.get(one.datatype)
    if contents is None:
        raise InvalidRequest(f"{one.name}: the datatype {one.datatype!r} is not served")
    return checked(one.name, one.datatype, one.shape, getattr(one.contents, contents))
