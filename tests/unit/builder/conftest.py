from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pitcrew_builder.cli import main
from pitcrew_builder.report import Failed, Succeeded, parse_outcome
from tests.unit.builder.s3_server import S3Server, serve


@dataclass(frozen=True)
class Build:
    """What a build left: exit code, outcome, and the store."""

    code: int
    outcome: Succeeded | Failed
    store: Path

    @property
    def failed(self) -> Failed:
        assert isinstance(self.outcome, Failed), self.outcome
        return self.outcome

    @property
    def succeeded(self) -> Succeeded:
        assert isinstance(self.outcome, Succeeded), self.outcome
        return self.outcome

    @property
    def engine(self) -> Path:
        return self.store / self.succeeded.path

    def visible(self) -> list[Path]:
        """Everything in the store that is not empty staging."""
        return [path for path in self.store.rglob("*") if path.is_file()]


Run = Callable[..., Build]


@pytest.fixture
def run_build(tmp_path: Path) -> Run:
    """Run `pitcrew-build build` in this process, in a store and cache of the test's own."""

    def run(model: Path | str, *flags: str) -> Build:
        store, outcome = tmp_path / "store", tmp_path / "outcome.json"
        places = ["--store", str(store), "--cache", str(tmp_path / "cache")]
        told = ["--outcome", str(outcome), "--progress", "none"]
        code = main(["build", "--model", str(model), *places, *told, *flags])
        parsed = parse_outcome(outcome.read_text())
        assert parsed is not None
        return Build(code, parsed, store)

    return run


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server for the whole run; each test takes a bucket of its own."""
    with serve() as server:
        yield server
