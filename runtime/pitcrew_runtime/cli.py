"""`pitcrew-serve`: the command, its log, and its exit code.

Exit codes: 0 told to stop, 2 cannot serve this engine, 1 anything else, such as the loss of a rank. Of
both one line `<Reason>: <message>` is left in the termination log for Kubernetes.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from pitcrew_runtime.arguments import TERMINATION_LOG, parser
from pitcrew_runtime.errors import GroupLost, StartupError
from pitcrew_runtime.options import settings_of

EXIT_LOST = 1
EXIT_REFUSED = 2
_TERMINATION_LIMIT = 4096


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `pitcrew-serve`."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    options = argparse.Namespace(termination_log=None)
    try:
        parser().parse_args(arguments, options)
        _serve(options)
    except StartupError as error:
        print(error.line, file=sys.stderr)
        _leave_word(error.line, options.termination_log)
        return EXIT_REFUSED
    except GroupLost as error:
        line = f"GroupLost: {error}"
        print(line, file=sys.stderr)
        _leave_word(line, options.termination_log)
        return EXIT_LOST
    return 0


def _stop_at_once(number: int, frame: FrameType | None) -> None:
    """Before anything is served there is nothing to drain."""
    sys.exit(0)


def _serve(options: argparse.Namespace) -> None:
    # The first process of a container has no default handler: told to stop while it still loads,
    # it would go on until it is killed.
    signal.signal(signal.SIGTERM, _stop_at_once)
    logging.getLogger().setLevel(options.log_level.upper())
    settings = settings_of(options)
    # Imported late: `--help` and a wrong option need no HTTP server.
    from pitcrew_runtime.serve import serve

    serve(settings)


def _leave_word(line: str, path: Path | None) -> None:
    """A termination log that cannot be written must not hide the fault itself."""
    if path is None and not TERMINATION_LOG.exists():
        return
    try:
        (path or TERMINATION_LOG).write_bytes(line.encode()[: _TERMINATION_LIMIT - 1] + b"\n")
    except OSError as error:
        print(f"pitcrew-serve: the termination log: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
