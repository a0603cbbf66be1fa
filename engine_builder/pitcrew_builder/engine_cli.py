"""`pitcrew-engine`: what a store holds, what an engine is, and what may go.

Exit codes: 0 done, 1 worth another attempt, 2 refused or damaged, 3 `diff` found differences. In a
pod, a failure leaves one line `<Reason>: <message>` in the termination log for Kubernetes.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from pitcrew_builder import __version__, engine_commands
from pitcrew_builder.errors import as_build_error, exit_code, to_failed
from pitcrew_builder.report import Failed
from pitcrew_builder.store.address import open_store, parse_store

_ENGINE = "an engine's id or its first digits, tag, path in the store, or directory"
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        address = parse_store(options.store, options.store_endpoint, options.store_region)
        store = open_store(address, _work())
        code: int = options.run(store, options)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        failed = to_failed(as_build_error(error))
        print(f"pitcrew-engine: {failed.message}", file=sys.stderr)
        if options.termination_log is not None:
            _leave_word(failed, options.termination_log)
        return exit_code(failed)
    return code


def _work() -> Path:
    return Path.home() / ".cache" / "pitcrew" / "staging"


def _leave_word(failed: Failed, log: Path) -> None:
    """A log that cannot be written must not hide the failure itself."""
    try:
        log.write_text(f"{failed.reason}: {' '.join(failed.message.split())}\n")
    except OSError as error:
        print(f"pitcrew-engine: {log}: {error.strerror}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pitcrew-engine", description="What a store holds, what an engine is, what may go."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, help_text, run, add_arguments in (
        ("ls", "list the engines of a store", engine_commands.ls, _ls),
        ("show", "tell what an engine is made of", engine_commands.show, _show),
        ("verify", "check every file against its digest", engine_commands.verify, _verify),
        ("diff", "tell why two engines are not one", engine_commands.diff, _diff),
        ("pull", "bring an engine here, whole and verified", engine_commands.pull, _pull),
        ("gc", "remove the engines that nobody needs", engine_commands.gc, _gc),
    ):
        command = commands.add_parser(name, help=help_text, description=help_text)
        add_arguments(command)
        command.add_argument("--store", default="engines", metavar="DIR|s3://BUCKET/PREFIX")
        command.add_argument("--store-endpoint", metavar="URL", help="an S3-compatible server")
        command.add_argument("--store-region", metavar="NAME", help="region of the bucket")
        command.add_argument(
            "--termination-log", type=Path, metavar="FILE", help="where a failure is told, in a pod"
        )
        command.set_defaults(run=run)
    return parser


def _ls(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document for programs")


def _show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", metavar="ENGINE", help=_ENGINE)
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots instead")


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", metavar="ENGINE", nargs="*", help=f"{_ENGINE}; default: all")


def _diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("left", metavar="ENGINE", help=_ENGINE)
    parser.add_argument("right", metavar="ENGINE")


def _pull(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", metavar="ENGINE", help=_ENGINE)
    parser.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="a new directory, or a copy of it"
    )


def _gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-id", action="append", default=[], metavar="ENGINE", help="in use; may be repeated"
    )
    parser.add_argument(
        "--only-id",
        action="append",
        default=[],
        type=_whole_id,
        metavar="ID",
        help="judge these whole ids alone, and remove them at any age; may be repeated",
    )
    parser.add_argument(
        "--keep-last", type=_count, default=2, metavar="N", help="of each model and target (2)"
    )
    parser.add_argument(
        "--older-than",
        type=_age,
        default=timedelta(days=7),
        metavar="AGE",
        help="30m, 12h, 7d (7d)",
    )
    parser.add_argument("--delete", action="store_true", help="do it; without, only tell")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is no count; write 0 or more")
    return int(text)


def _whole_id(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no whole id; write its 64 hex digits")
    return text


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no age; write 30m, 12h or 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


if __name__ == "__main__":
    sys.exit(main())
