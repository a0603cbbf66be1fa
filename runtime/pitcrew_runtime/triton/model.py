"""The model that Triton's Python backend loads: each exported `model.py` imports it from here.

The backend calls it on one thread. A request is handed to the event loop at once, so the next can
come: all that a server is asked meets in one scheduler.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from pitcrew_runtime.errors import StartupError
from pitcrew_runtime.triton.edge import Edge
from pitcrew_runtime.triton.guard import keep
from pitcrew_runtime.triton.hosting import Hosting
from pitcrew_runtime.triton.mirror import Mirror
from pitcrew_runtime.triton.parameters import on_fault, settings


class TritonPythonModel:
    """Triton's interface of a model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the engine and warm up; only then does Triton call the model ready."""
        _log_to_triton()
        _check_numpy()
        config = json.loads(args["model_config"])
        parameters = {key: one["string_value"] for key, one in config["parameters"].items()}
        root = Path(args["model_repository"]) / args["model_version"]
        try:
            self._hosting = Hosting(settings(args["model_name"], root, parameters))
        except StartupError as error:
            raise pb_utils.TritonModelException(error.line) from error
        self._edge = Edge(self._hosting.service, pb_utils)
        mirror = Mirror(self._hosting.metrics.collect, args["model_name"], pb_utils)
        guard = keep(self._hosting.service.served.frontend, on_fault(parameters))
        works = (self._edge.watch(), mirror.keep(), guard)
        self._watching = [self._hosting.run(work) for work in works]

    def execute(self, requests: Sequence[Any]) -> None:
        """Begin to answer each; responses go out by the requests' own senders."""
        for request in requests:
            self._hosting.run(self._edge.answer(request))

    def finalize(self) -> None:
        """Finish what runs, and end."""
        for work in self._watching:
            work.cancel()
        self._hosting.close()


def _check_numpy() -> None:
    """Backends compiled against numpy 1 read arrays of numpy 2 wrongly, and die of the first text."""
    if int(np.__version__.partition(".")[0]) < 2:
        return
    given = np.arange(1, 5)
    if not np.array_equal(pb_utils.Tensor.from_dlpack("given", given).as_numpy(), given):
        raise pb_utils.TritonModelException(
            f"numpy {np.__version__}: the Python backend of this server reads arrays of numpy 1 "
            "only; give its Python the packages of the model's requirements.txt"
        )


class _TritonLog(logging.Handler):
    """Records of ours in Triton's own log."""

    def emit(self, record: logging.LogRecord) -> None:
        serious = record.levelno >= logging.WARNING
        log = pb_utils.Logger.log_warn if serious else pb_utils.Logger.log_info
        log(self.format(record))


def _log_to_triton() -> None:
    handler = _TritonLog()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
