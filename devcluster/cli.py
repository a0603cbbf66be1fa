"""The command line: words to calls. It holds no logic of its own."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from devcluster import cluster, config as configuration, debian, golang
from devcluster.errors import DevclusterError
from devcluster.progress import note
from devcluster.process import run


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; every expected error is one message, no trace."""
    parser = argparse.ArgumentParser(prog="python3 -m devcluster")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up")
    down = commands.add_parser("down")
    down.add_argument("--keep", action="store_true")
    options = parser.parse_args(arguments)
    try:
        config = configuration.from_environment(os.environ, Path.home())
        if options.command == "up":
            go = run(["go", "env", "GOVERSION"]).strip()
            mirror = debian.Mirror(debian.find_mirror(os.environ, debian.read_sources()) or "", "amd64")
            cluster.up(config, go, mirror)
        else:
            cluster.down(config, keep=options.keep)
    except DevclusterError as error:
        note(f"error: {error}")
        return 1
    return 0
