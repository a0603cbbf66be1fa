"""Settings, command line, logs and health."""

import asyncio
import json
import logging
import subprocess
import sys

import aiohttp
import pytest
from pydantic import ValidationError

from pitcrew_operator.cli import main, parser
from pitcrew_operator.config import Config
from pitcrew_operator.logs import JsonFormatter
from pitcrew_operator.metrics import Metrics
from pitcrew_operator.web import application, serve

REQUIRED = {"PITCREW_BUILDER_IMAGE": "b:1", "PITCREW_RUNTIME_IMAGE": "r:1"}


def test_settings_are_read_from_the_environment() -> None:
    config = Config.from_env(
        REQUIRED
        | {
            "PITCREW_STORE_ACCESS_MODES": "ReadWriteMany, ReadOnlyMany",
            "PITCREW_IMAGE_PULL_SECRETS": "a,b",
            "PITCREW_WORKERS": "3",
            "PITCREW_STORE_CLASS": "",
        }
    )
    assert config.builder_image == "b:1"
    assert config.store_access_modes == ("ReadWriteMany", "ReadOnlyMany")
    assert config.image_pull_secrets == ("a", "b")
    assert config.workers == 3
    assert config.store_class is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PITCREW_WORKERS", "many"),
        ("PITCREW_WORKERS", "0"),
        ("PITCREW_BUILDER_PULL_POLICY", "Sometimes"),
        ("PITCREW_STORE_ACCESS_MODES", "ReadWriteTwice"),
        ("PITCREW_STORE_CLAIM", "No Name"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    name: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run"], REQUIRED | {name: value}) == 2
    assert name in capsys.readouterr().err


def test_missing_images_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"], {}) == 2
    told = capsys.readouterr().err
    assert "PITCREW_BUILDER_IMAGE" in told
    assert "PITCREW_RUNTIME_IMAGE" in told


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Config.from_env(REQUIRED).workers = 2


def test_scope_is_one_or_the_other() -> None:
    assert parser().parse_args(["run", "--namespace", "a", "--namespace", "b"]).namespace == [
        "a",
        "b",
    ]
    with pytest.raises(SystemExit):
        parser().parse_args(["run", "--namespace", "a", "--all-namespaces"])


def test_help_needs_neither_kopf_nor_the_client() -> None:
    code = (
        "import sys; from pitcrew_operator.cli import parser; parser();"
        "print([m for m in ('kopf', 'kubernetes', 'aiohttp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_plans_and_manifests_need_no_input_or_output() -> None:
    code = (
        "import sys; import pitcrew_operator.plan.engine, pitcrew_operator.plan.deployment;"
        "print([m for m in ('asyncio', 'kopf', 'kubernetes', 'aiohttp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_log_lines_are_json_and_cannot_be_forged() -> None:
    record = logging.LogRecord("a", logging.INFO, "f", 1, "one\n%s", ('{"level":"error"}',), None)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == 'one\n{"level":"error"}'


async def test_health_and_metrics() -> None:
    problem: list[str | None] = ["not listed yet"]
    metrics = Metrics()
    metrics.reconcile_seconds.labels("LLMEngine").observe(0.1)
    async with (
        serve(application(metrics, lambda: problem[0], lambda: True), 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        async with session.get("/healthz") as answer:
            assert answer.status == 503
            assert await answer.text() == "not listed yet"
        problem[0] = None
        async with session.get("/healthz") as answer:
            assert answer.status == 200
        async with session.get("/metrics") as answer:
            assert "pitcrew_operator_reconcile_seconds_count" in await answer.text()
    await asyncio.sleep(0)
