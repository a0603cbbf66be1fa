"""Stand-ins for what TensorRT's bindings give to ahead-of-time plugins."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace


@dataclass(frozen=True)
class Expression:
    """A size of TensorRT's: it stands on the left of an operator, an int or another on the right."""

    value: int

    def _with(self, other: "int | Expression", combine: Callable[[int, int], int]) -> "Expression":
        return Expression(combine(self.value, getattr(other, "value", other)))

    def __add__(self, other: "int | Expression") -> "Expression":
        return self._with(other, int.__add__)

    def __sub__(self, other: "int | Expression") -> "Expression":
        return self._with(other, int.__sub__)

    def __mul__(self, other: "int | Expression") -> "Expression":
        return self._with(other, int.__mul__)

    def __floordiv__(self, other: "int | Expression") -> "Expression":
        return self._with(other, int.__floordiv__)

    def __lt__(self, other: "int | Expression") -> "Expression":
        return self._with(other, lambda one, two: int(one < two))

    def constant_value(self) -> int:
        return self.value


class TensorDesc(SimpleNamespace):
    """A tensor's description."""

    def like(self) -> "TensorDesc":
        return self


def described(*dims: int) -> TensorDesc:
    """A tensor in float16."""
    return TensorDesc(dtype="half", shape_expr=[Expression(dim) for dim in dims])


def modules(known: dict[str, Callable[..., object]]) -> dict[str, ModuleType]:
    """`tensorrt` and its `plugin`; what is registered goes to `known`, implementations by
    `<name> implemented`.
    """
    native = ModuleType("tensorrt.plugin")
    native.__dict__.update(
        TensorDesc=TensorDesc,
        KernelLaunchParams=SimpleNamespace,
        SymIntExprs=lambda count: [None] * count,
        SymInt32=lambda size: size,
        from_shape_expr=lambda shape, dtype: TensorDesc(dtype=dtype, shape_expr=list(shape)),
        register=lambda name: lambda function: known.update({name: function}),
        aot_impl=lambda name: lambda function: known.update({f"{name} implemented": function}),
    )
    trt = ModuleType("tensorrt")
    trt.__dict__.update(plugin=native, float16="half", bfloat16="brain")
    return {"tensorrt": trt, "tensorrt.plugin": native}
