"""The command: look, draw, wait. Exit codes: 0, or 2 where the server cannot be read."""

import argparse
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from typing import TextIO

from pitcrew_builder import __version__
from pitcrew_runtime.top.page import lines
from pitcrew_runtime.top.scrape import Interval, Scrape, parse

_HOME_AND_CLEAR = "\x1b[H\x1b[2J"
_TIMEOUT = 5.0
EXIT_UNREADABLE = 2


class Unreadable(Exception):
    """The address gives no metrics."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `pitcrew-top`."""
    options = _parser().parse_args(arguments)
    address = metrics_address(options.url)
    looks = 1 if options.once else options.count
    try:
        watch(lambda: look(address), options.interval, looks, sys.stdout)
    except Unreadable as error:
        print(f"pitcrew-top: {error}", file=sys.stderr)
        return EXIT_UNREADABLE
    except KeyboardInterrupt:
        pass
    return 0


def watch(
    scrape: Callable[[], Scrape],
    seconds: float,
    looks: int | None,
    screen: TextIO,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Draw that many pages (None: for ever), so many seconds apart. Raises `Unreadable`.

    The first page is about all the time since the server's start, each later one about the time
    since the page before. A screen that is no terminal gets the pages one after the other. Once a page
    was drawn, a server that is not to be read is told in place of the next and looked for again.
    """
    before = Scrape(0.0, {})
    clear = _HOME_AND_CLEAR if screen.isatty() else ""
    drawn = 0
    while looks is None or drawn < looks:
        if drawn:
            sleep(seconds)
        try:
            after = scrape()
        except Unreadable as error:
            if not drawn:
                raise
            screen.write(f"{clear}pitcrew-top: {error}\n")
            screen.flush()
            drawn += 1
            continue
        span = f"the last {after.at - before.at:.1f} s" if drawn else "all since the start"
        interval = Interval(before, after) if drawn else since_start(after)
        page = "\n".join([f"pitcrew-top: {span}", *lines(interval)])
        screen.write(f"{clear}{page}\n")
        screen.flush()
        before = after
        drawn += 1


def since_start(after: Scrape) -> Interval:
    """All that a server has counted. Without a time of its start it has no rates."""
    return Interval(Scrape(after.at, {}), after)


def look(address: str) -> Scrape:
    """Read the metrics once; raises `Unreadable`."""
    try:
        # The scheme is http or https: see `metrics_address`.
        with urllib.request.urlopen(address, timeout=_TIMEOUT) as answer:  # noqa: S310
            text = answer.read().decode()
        return parse(text, time.monotonic())
    except (urllib.error.URLError, OSError) as error:
        raise Unreadable(f"{address}: {error}; is a pitcrew-serve listening there?") from error
    except ValueError as error:
        raise Unreadable(f"{address}: not Prometheus metrics: {error}") from error


def metrics_address(url: str) -> str:
    """The address of the metrics of the server at `url`: `host:port`, or with a scheme or a path."""
    parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise SystemExit(f"pitcrew-top: {url!r} is no address such as http://127.0.0.1:8000")
    path = parts.path if parts.path.strip("/") else "/metrics"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pitcrew-top", description="Watch a pitcrew-serve in the terminal."
    )
    add = parser.add_argument
    add("--version", action="version", version=f"pitcrew {__version__}")
    add("url", nargs="?", default="http://127.0.0.1:8000", help="default: %(default)s")
    add("--interval", type=_seconds, default=2.0, metavar="S", help="default: %(default)s")
    add("--count", type=int, metavar="N", help="pages to draw (default: until told to stop)")
    add("--once", action="store_true", help="one page, about all since the server's start")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
