"""`pitcrew-operator run`: settings from the environment, scope from the command line."""

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from pitcrew_operator import logs
from pitcrew_operator.config import PREFIX, Config

EXIT_USAGE = 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="pitcrew-operator", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="reconcile LLMEngines and LLMDeployments")
    scope = run.add_mutually_exclusive_group()
    scope.add_argument(
        "--namespace",
        action="append",
        default=[],
        metavar="NS",
        help="serve this namespace only; may be repeated",
    )
    scope.add_argument(
        "--all-namespaces", action="store_true", help="serve every namespace (the default)"
    )
    return root


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run until SIGTERM or SIGINT. Exit code 2 where the settings are wrong."""
    arguments = parser().parse_args(argv)
    try:
        config = Config.from_env(environ)
    except ValidationError as error:
        print(explain(error), file=sys.stderr)
        return EXIT_USAGE
    logs.configure(config.log_level, config.log_format)
    # Imported late: `--help` and a usage error should not wait for kopf.
    from pitcrew_operator.app import run

    asyncio.run(run(config, arguments.namespace, asyncio.Event()))
    return 0


def explain(error: ValidationError) -> str:
    """One line for each wrong setting, by the name of its variable."""
    variables = {field.alias or name: name.upper() for name, field in Config.model_fields.items()}
    variables |= {name: name.upper() for name in Config.model_fields}
    lines = (
        f"{PREFIX}{variables[str(problem['loc'][0])]}: {problem['msg']} (set the variable)"
        for problem in error.errors(include_url=False)
    )
    return "pitcrew-operator: wrong settings\n" + "\n".join(f"  {line}" for line in lines)
