"""Whether what the planner predicts has room on the nodes and the volume, before any is taken."""

from pitcrew_builder.manifest import size_text
from pitcrew_operator.api.version import Answer
from pitcrew_operator.order import Order


def misfit(order: Order, answer: Answer) -> str | None:
    """Why the engine has no room, in figures, and what would; None where nothing speaks against it.

    Nodes that tell nothing of their GPUs, and volumes that are not bound yet, speak against nothing.
    """
    return _gpus(order, answer) or answer.misfit or _disk(order, answer)


def _gpus(order: Order, answer: Answer) -> str | None:
    pool = order.pool
    if pool is None or answer.world_size <= pool.total:
        return None
    return (
        f"parallelism asks for {answer.world_size} ranks with a GPU each, and the nodes that the "
        f"spec allows have {pool.total} x {pool.product}; lower parallelism to {pool.total} ranks or "
        "less, or add nodes"
    )


def _disk(order: Order, answer: Answer) -> str | None:
    capacity, needed = order.store.capacity, answer.prediction.build_disk_bytes
    if capacity is None or needed <= capacity:
        return None
    return (
        f"the build needs {size_text(needed)} on PersistentVolumeClaim {order.store.name}, which has "
        f"{size_text(capacity)} in all; enlarge it, or narrow the engine with spec.quantization"
    )
