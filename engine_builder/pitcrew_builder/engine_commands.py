"""The commands of `pitcrew-engine`: each asks the store, prints, and returns an exit code."""

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pitcrew_builder.errors import EngineCorrupt, EngineInUse, EngineNotFound, as_build_error
from pitcrew_builder.manifest import short_id, size_text
from pitcrew_builder.report import EXIT_RETRY
from pitcrew_builder.store import EngineStore, Kept, Store
from pitcrew_builder.store.collect import Policy, Verdict, judge
from pitcrew_builder.store.compare import differences
from pitcrew_builder.store.lookup import resolve

EXIT_DIFFERENT = 3
_WHOLE = ("id", "size", "published", "state", "verdict")
"""Columns that a narrow terminal does not break."""


def ls(store: EngineStore, options: argparse.Namespace) -> int:
    """List the engines, as a table or as JSON."""
    engines = _all(store)
    if options.json:
        print(json.dumps([_document(kept) for kept in engines], indent=2))
        return 0
    _print_table(
        f"{len(engines)} engine(s) in {store.location}",
        ("id", "tag", "size", "published", "state"),
        [_row(kept) for kept in engines],
    )
    return 0


def show(store: EngineStore, options: argparse.Namespace) -> int:
    """Tell what an engine is made of, on the terminal or on a page."""
    from pitcrew_builder.explain import page, text
    from pitcrew_builder.explain.summary import explain

    explained = explain(*resolve(store, options.engine))
    if options.html is None:
        text.show(explained)
        return 0
    try:
        options.html.write_text(page.page(explained), encoding="utf-8")
    except OSError as error:
        raise as_build_error(error) from error
    print(f"wrote {options.html}")
    return 0


def verify(store: EngineStore, options: argparse.Namespace) -> int:
    """Check the engines that are named, or all; goes on after a damaged one.

    Raises `EngineCorrupt` at the end where one was damaged.
    """
    named = [resolve(store, name) for name in options.engine]
    damaged: list[str] = []
    for where, path in named or [(store, kept.path) for kept in _all(store)]:
        try:
            manifest = where.open(path)
            print(f"{path}: {len(manifest.files)} files agree with {short_id(manifest.engine_id)}")
        except EngineCorrupt as error:
            damaged.append(str(error))
            print(f"{path}: DAMAGED: {error}")
    if damaged:
        more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
        raise EngineCorrupt(f"{damaged[0]}{more}")
    return 0


def diff(store: EngineStore, options: argparse.Namespace) -> int:
    """Print the fields of two identities that differ."""
    left, right = (
        where.open(path, digests=False).identity
        for where, path in (resolve(store, name) for name in (options.left, options.right))
    )
    found = differences(left, right)
    if not found:
        print(f"one engine: {left.engine_id}")
        return 0
    rows = [(item.field, item.left or "–", item.right or "–") for item in found]
    _print_table("", ("", short_id(left.engine_id), short_id(right.engine_id)), rows)
    return EXIT_DIFFERENT


def pull(store: EngineStore, options: argparse.Namespace) -> int:
    """Bring an engine to this machine."""
    from pitcrew_builder.store.pull import pull as bring

    where, path = resolve(store, options.engine)
    manifest = bring(where, path, options.to)
    print(f"{manifest.tag} is at {options.to}")
    return 0


def gc(store: EngineStore, options: argparse.Namespace) -> int:
    """Judge every engine, and remove those that may go where that was asked for.

    An engine that was named and is being read is worth another attempt.
    """
    named = frozenset(options.only_id)
    policy = Policy(tuple(options.keep_id), options.keep_last, options.older_than, named)
    verdicts = judge(_all(store), policy, datetime.now(UTC))
    going = [verdict for verdict in verdicts if verdict.remove]
    outcomes = {verdict.kept.path: _remove(store, verdict) for verdict in going if options.delete}
    rows = [
        (_id(v.kept), _name(v.kept), _size(v.kept), outcomes.get(v.kept.path, _told(v)), v.why)
        for v in verdicts
    ]
    _print_table(store.location, ("id", "tag", "size", "verdict", "because"), rows)
    if options.delete:
        left = store.clean()
        print(f"{sum(told == 'removed' for told in outcomes.values())} engine(s) removed, "
              f"{left} leftover(s) of interrupted work")  # fmt: skip
    elif going:
        print(f"{len(going)} engine(s) would go; run it again with --delete to remove them")
    return EXIT_RETRY if named and any(told != "removed" for told in outcomes.values()) else 0


def _all(store: EngineStore) -> list[Kept]:
    """Every engine. A directory that is not there is rather misspelt than empty.

    Raises `EngineNotFound` for one.
    """
    if isinstance(store, Store) and not store.root.is_dir():
        raise EngineNotFound(
            f"{store.location} is no directory, so no engine store; name the place of one with "
            f"--store, and check that its volume is mounted"
        )
    return list(store.engines())


def _remove(store: EngineStore, verdict: Verdict) -> str:
    try:
        store.remove(verdict.kept.path)
    except EngineInUse:
        return "kept: being read"
    return "removed"


def _told(verdict: Verdict) -> str:
    return "would go" if verdict.remove else "stays"


def _document(kept: Kept) -> dict[str, Any]:
    document: dict[str, Any] = {"path": kept.path, "published": kept.published.isoformat()}
    if kept.manifest is None:
        return {**document, "problem": kept.problem}
    identity = kept.manifest.identity
    return {
        **document,
        "engineId": kept.manifest.engine_id,
        "tag": kept.manifest.tag,
        "model": identity.model,
        "commit": identity.commit,
        "target": identity.target.value,
        "targetTag": identity.target_tag,
        "worldSize": kept.manifest.world_size,
        "sizeBytes": kept.manifest.size_bytes,
    }


def _row(kept: Kept) -> tuple[str, ...]:
    when = kept.published.strftime("%Y-%m-%d %H:%M")
    return _id(kept), _name(kept), _size(kept), when, "" if kept.manifest else "damaged"


def _name(kept: Kept) -> str:
    return kept.manifest.tag if kept.manifest else kept.path


def _id(kept: Kept) -> str:
    return kept.path.rpartition("/")[2]


def _size(kept: Kept) -> str:
    return size_text(kept.manifest.size_bytes) if kept.manifest else ""


def _print_table(title: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in titles:
        table.add_column(
            name,
            overflow="fold",
            justify="right" if name == "size" else "left",
            no_wrap=name in _WHOLE,
        )
    for row in rows:
        table.add_row(*row)
    Console().print(table)
