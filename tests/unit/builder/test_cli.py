import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pitcrew_builder import flags
from pitcrew_builder.cli import main
from pitcrew_builder.report import Phase, Progress, Succeeded, parse_outcome
from pitcrew_builder.store import open_engine
from tests.unit.builder import checkpoints
from tests.unit.builder.conftest import Run

PHASES = [phase for phase in Phase if phase is not Phase.QUANTIZE]
"""Of a build that makes nothing narrow."""


def test_the_contract_of_the_build_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The operator's own command line: a spec as JSON in, progress lines and an outcome out."""
    checkpoint = checkpoints.write(tmp_path / "tiny")
    spec = {
        "source": {"kind": "local", "path": str(checkpoint), "name": "my-model"},
        "shapes": {"maxBatchSize": 8, "maxSequenceLength": 48, "kvPageSize": 4},
    }
    outcome = tmp_path / "termination-log"
    outcome.touch()
    code = main(
        ["build", "--spec-json", json.dumps(spec), "--store", str(tmp_path / "engines"),
         "--cache", str(tmp_path / "cache"), "--outcome", str(outcome), "--progress", "json"]
    )  # fmt: skip
    assert code == 0
    done = parse_outcome(outcome.read_text())
    assert isinstance(done, Succeeded)
    assert (done.max_batch_size, done.max_sequence_length) == (8, 48)
    # 2 (K and V) x 2 layers x 2 heads x 4 elements x 4 bytes.
    assert done.kv_bytes_per_token == 128
    manifest = open_engine(tmp_path / "engines" / done.path)
    assert manifest.identity.model == "my-model"
    assert manifest.ranks[0].graph == "rank0/model.onnx"
    lines = [Progress.model_validate_json(line) for line in capsys.readouterr().out.splitlines()]
    assert list(dict.fromkeys(line.phase for line in lines)) == PHASES
    percents = [line.percent for line in lines]
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (0, 100)


@pytest.mark.parametrize("text", ["{", "{}", '{"source":{"kind":"s3"}}'])
def test_a_broken_spec_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "--spec-json", text, "--store", str(tmp_path)]) == 2
    assert "InvalidSpec" in capsys.readouterr().err


def test_flags_beside_a_whole_spec_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = {"kind": "local", "path": str(tmp_path), "name": "tiny"}
    given = [
        "--spec-json",
        json.dumps({"source": source}),
        "--kv-cache",
        "int8",
        "--task",
        "bleu=x",
    ]
    assert main(["build", *given, "--store", str(tmp_path)]) == 2
    assert "--kv-cache, --task beside --spec-json" in capsys.readouterr().err


def test_every_flag_of_a_spec_is_known_as_one() -> None:
    """So that none is overlooked beside a whole document."""
    parser = argparse.ArgumentParser()
    flags.add_spec(parser)
    others = {"help", "model", "spec_json", "cache"}
    assert {action.dest for action in parser._actions} - others == set(flags.SPEC_FLAGS)


def test_errors_of_documents_are_told_in_their_own_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny", num_key_value_heads=3)
    store = ["--store", str(tmp_path / "store"), "--cache", str(tmp_path / "cache")]
    assert main(["build", "--model", str(checkpoint), *store]) == 2
    assert "config.json: num_attention_heads (4) is no multiple of" in capsys.readouterr().err
    assert main(["build", "--model", str(checkpoint), "--precision", "fp16", *store]) == 2
    told = capsys.readouterr().err
    assert "InvalidSpec: precision: target onnxruntime-cpu computes in fp32, not fp16" in told


def test_the_manifest_tells_what_a_runtime_needs(tmp_path: Path, run_build: Run) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny", eos_token_id=5)
    (checkpoint / "generation_config.json").write_text(
        '{"eos_token_id": [2, 3], "pad_token_id": 0}'
    )
    manifest = open_engine(run_build(checkpoint).engine)
    model = manifest.model
    assert (model.bos_token_id, model.eos_token_ids, model.pad_token_id) == (1, (2, 3), 0)
    assert model.parameters == sum(item.size for item in checkpoints.tensors().values())
    assert len(manifest.canary.prompt) == 8
    assert all(0 <= token < 40 for token in manifest.canary.prompt)
    assert set(manifest.timings) == {phase.value for phase in PHASES[:-1]}


@pytest.mark.parametrize("length", [2, 5, 64])
def test_the_canary_fits_the_shortest_sequences(
    length: int, tmp_path: Path, run_build: Run
) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    build = run_build(checkpoint, "--max-sequence-length", str(length))
    canary = open_engine(build.engine).canary
    assert len(canary.prompt) >= 1
    assert len(canary.prompt) + len(canary.continuation) <= length


def test_show_and_verify(
    tmp_path: Path, run_build: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    build = run_build(checkpoints.write(tmp_path / "tiny"))
    assert main(["show", str(build.engine)]) == 0
    assert build.succeeded.tag in capsys.readouterr().out
    assert main(["verify", str(build.engine)]) == 0
    (build.engine / "rank0" / "model.onnx").write_text("?")
    assert main(["verify", str(build.engine)]) == 2
    assert "build the engine again" in capsys.readouterr().err


def test_a_store_that_is_no_directory_is_told(tmp_path: Path, run_build: Run) -> None:
    (tmp_path / "store").write_text("a file")
    build = run_build(checkpoints.write(tmp_path / "tiny"))
    assert "check that the volume is mounted" in build.failed.message
    assert build.failed.retryable


def test_importing_the_cli_imports_nothing_heavy() -> None:
    script = (
        "import sys, pitcrew_builder.cli, pitcrew_builder.sources.local;"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'tokenizers', 'huggingface_hub', 'rich'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_bar_is_shown_when_asked(
    tmp_path: Path, run_build: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    assert run_build(checkpoint, "--progress", "rich").code == 0
    assert "100%" in capsys.readouterr().out


def test_a_build_that_finds_its_engine_imports_nothing_that_makes_one(tmp_path: Path) -> None:
    places = ["--store", str(tmp_path / "store"), "--cache", str(tmp_path / "cache")]
    model = str(checkpoints.write(tmp_path / "tiny"))
    command = ["build", "--model", model, *places, "--progress", "none"]
    script = """if True:
        import sys
        from pitcrew_builder.cli import main
        assert main(sys.argv[1:]) == 0
        print(*{name.partition(".")[0] for name in sys.modules})
    """
    runs = [
        subprocess.run([sys.executable, "-c", script, *command], check=True, capture_output=True)
        for _ in range(2)
    ]
    making = {"numpy", "onnx", "onnxruntime"}
    heavy = making | {"tokenizers", "huggingface_hub", "botocore", "rich"}
    first, second = (heavy & set(run.stdout.decode().split()) for run in runs)
    assert making <= first
    assert not second
