"""Whether a network can be split as asked, before anything of it is drawn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.spec import MAX_RANKS, Parallelism


@dataclass(frozen=True, slots=True)
class Divisible:
    """What of a network is dealt out to ranks, by the name that config.json has for it."""

    layers: int
    heads: int
    kv_heads: int
    features: tuple[int, ...]
    """The inner widths of all kinds of feed-forward blocks."""
    vocabulary: int
    experts: int = 0
    """0 where the network has none."""


def check_fit(asked: Parallelism, network: Divisible) -> None:
    """Refuse a split that would leave ranks unequal or idle. Raises `InvalidSpec`."""
    degrees = {
        "tensor": (asked.tensor, _tensor_problem),
        "pipeline": (asked.pipeline, _pipeline_problem),
        "expert": (asked.expert, _expert_problem),
    }
    for field, (degree, problem_of) in degrees.items():
        problem = problem_of(degree, network)
        if problem:
            fitting = ", ".join(str(n) for n in _fitting(problem_of, network))
            raise InvalidSpec(
                f"parallelism.{field} is {degree}, and the checkpoint has {problem}; choose one of "
                f"{fitting}"
            )


def _fitting(problem_of: Callable[[int, Divisible], str], network: Divisible) -> Iterator[int]:
    return (n for n in range(1, MAX_RANKS + 1) if not problem_of(n, network))


def _tensor_problem(degree: int, network: Divisible) -> str:
    """What stands against a degree; empty where nothing does."""
    if network.heads % degree:
        return f"{network.heads} attention heads (num_attention_heads), which do not divide evenly"
    if network.kv_heads % degree and degree % network.kv_heads:
        return (
            f"{network.kv_heads} KV heads (num_key_value_heads), which can neither be dealt out "
            f"nor repeated evenly"
        )
    for width in network.features:
        if width % degree:
            return f"a feed-forward width of {width} (intermediate_size), not a multiple of it"
    # The last rank takes what is left of the vocabulary, and something must be left.
    if -(-network.vocabulary // degree) * (degree - 1) >= network.vocabulary:
        return f"{network.vocabulary} tokens (vocab_size), too few for that many ranks"
    return ""


def _pipeline_problem(degree: int, network: Divisible) -> str:
    few = degree > network.layers
    return f"{network.layers} layers (num_hidden_layers), fewer than stages" if few else ""


def _expert_problem(degree: int, network: Divisible) -> str:
    if degree > 1 and not network.experts:
        return "no experts: it is no mixture"
    return (
        f"{network.experts} experts, which do not divide evenly" if network.experts % degree else ""
    )
