"""Merged adapters against PEFT's own computation, in which they stand beside the weights."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pitcrew_builder.cli import main
from pitcrew_builder.errors import BuildError, CheckpointCorrupt, UnknownArchitecture
from pitcrew_builder.pipeline import Places, build
from pitcrew_builder.progress import Tracker
from pitcrew_builder.spec import Adapter, BuildSpec, LocalSource, Parallelism
from tests.golden.reference import ReferenceEngine

DATA = Path(__file__).parent / "data"
STACKS = {
    "mixtral-experts": "mixtral",
    "qwen3-moe-experts": "qwen3-moe-mixed",
    "gpt-oss-experts": "gpt-oss",
}
"""With changes of whole stacks of experts."""
BASES = {
    "llama-lora": "llama3",
    "llama-rslora": "llama-biases",
    "mixtral-all": "mixtral",
    "phi3-lora": "phi3",
    **STACKS,
}
CLOSE = 1e-4

Build = Callable[..., Path]


@pytest.fixture
def merged(tmp_path: Path) -> Build:
    """Build a checkpoint of the goldens with adapters; returns the engine's directory."""

    def make(
        base: str, *adapters: tuple[Path, str], parallelism: Parallelism | None = None
    ) -> Path:
        spec = BuildSpec(
            source=_local(DATA / base),
            adapters=tuple(
                Adapter(source=_local(path), weight=weight) for path, weight in adapters
            ),
            parallelism=parallelism or Parallelism(),
        )
        places = Places(tmp_path / "store", tmp_path / "cache")
        done = build(spec, places, Tracker(lambda _: None))
        return tmp_path / "store" / done.path

    return make


def _local(path: Path) -> LocalSource:
    return LocalSource(path=str(path), name=path.name)


def _logits(engine: Path, prompt: np.ndarray) -> np.ndarray:
    return np.stack(ReferenceEngine(engine).batch(2).feed(prompt.tolist()))


@pytest.mark.parametrize("name", BASES)
def test_a_merged_adapter_computes_what_peft_computes(name: str, merged: Build) -> None:
    adapter = DATA / "adapters" / name
    with np.load(adapter / "expected.npz") as expected:
        logits = _logits(merged(BASES[name], (adapter, "1")), expected["prompt"])
        assert np.abs(logits - expected["logits"]).max() <= CLOSE


def test_adapters_of_older_mixtrals_say_block_sparse_moe(merged: Build, tmp_path: Path) -> None:
    """Of all but stacks of experts, which only transformers 5 has."""
    engines = []
    for place in ("mlp", "block_sparse_moe"):
        scales = {"target_parameters": [], "alpha_pattern": {f"{place}.gate": 5}}
        adapter = _copy(tmp_path / place, name="mixtral-all", **scales)
        file = adapter / "adapter_model.safetensors"
        tensors = {key: value for key, value in load_file(file).items() if ".experts." not in key}
        save_file({key.replace(".mlp.", f".{place}."): tensors[key] for key in tensors}, file)
        engines.append(merged("mixtral", (adapter, "1")))
    with np.load(DATA / "mixtral" / "expected.npz") as expected:
        ours, theirs = (_logits(engine, expected["prompt"]) for engine in engines)
        assert np.abs(ours - expected["logits"]).max() > CLOSE
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "split", [Parallelism(tensor=2), Parallelism(expert=2)], ids=["tp2", "ep2"]
)
@pytest.mark.parametrize("name", ["mixtral-experts", "gpt-oss-experts"])
def test_each_rank_merges_its_part_of_a_stack(name: str, split: Parallelism, merged: Build) -> None:
    adapter = DATA / "adapters" / name
    with np.load(adapter / "expected.npz") as expected:
        engine = merged(STACKS[name], (adapter, "1"), parallelism=split)
        assert np.abs(_logits(engine, expected["prompt"]) - expected["logits"]).max() <= CLOSE


STACK = "base_model.model.model.layers.1.mlp.experts"


@pytest.mark.parametrize(
    ("base", "spoil", "told"),
    [
        ("mixtral", lambda t: t.pop(f"{STACK}.lora_A.weight"), "lora_B alone"),
        (
            "mixtral",
            lambda t: t.update({f"{STACK}.lora_A.weight": np.ones((16, 7), np.float32)}),
            r"has A \[16, 7\] and B \[64, 16\] for a stack of experts",
        ),
        (
            "mixtral",
            lambda t: t.update(
                {
                    f"{STACK}.lora_A.weight": np.ones((12, 160), np.float32),
                    f"{STACK}.lora_B.weight": np.ones((64, 12), np.float32),
                }
            ),
            r"has A \[12, 160\] and B \[64, 12\] for a stack of experts",
        ),
        ("llama3", lambda _: None, "for a stack of experts, and the network has none"),
        (
            "gpt-oss-mxfp4",
            lambda t: (
                t.clear(),
                t.update({f"{STACK}.lora_A.weight": np.ones((12, 64), np.float32)}),
                t.update({f"{STACK}.lora_B.weight": np.ones((64, 12), np.float32)}),
            ),
            "none of that size whose weights are plain numbers",
        ),
    ],
    ids=["half a pair", "another width", "fewer experts", "another network", "packed experts"],
)
def test_stacks_that_do_not_fit_are_refused(
    base: str,
    spoil: Callable[[dict[str, np.ndarray]], object],
    told: str,
    merged: Build,
    tmp_path: Path,
) -> None:
    target = _copy(tmp_path, name="mixtral-experts")
    tensors = load_file(target / "adapter_model.safetensors")
    spoil(tensors)
    save_file(tensors, target / "adapter_model.safetensors")
    with pytest.raises(CheckpointCorrupt, match=told):
        merged(base, (target, "1"))


def test_weights_scale_and_cancel(merged: Build) -> None:
    adapter = DATA / "adapters" / "llama-lora"
    with np.load(DATA / "llama3" / "expected.npz") as expected:
        prompt, plain = expected["prompt"], expected["logits"]
    cancelled = merged("llama3", (adapter, "0.75"), (adapter, "-0.75"))
    assert np.abs(_logits(cancelled, prompt) - plain).max() <= CLOSE
    twice = _logits(merged("llama3", (adapter, "0.5"), (adapter, "0.5")), prompt)
    once = _logits(merged("llama3", (adapter, "1")), prompt)
    assert np.abs(twice - once).max() <= CLOSE


def test_adapters_are_part_of_the_identity(merged: Build) -> None:
    adapter = DATA / "adapters" / "llama-lora"
    engines = {
        merged("llama3"),
        merged("llama3", (adapter, "1")),
        merged("llama3", (adapter, "0.5")),
        merged("llama3", (adapter, "1"), (adapter, "1")),
    }
    assert len(engines) == 4
    tags = {engine.parent.name.rpartition("-")[2] for engine in engines}
    assert tags == {"fp32", "lora1", "lora2"}
    manifest = json.loads((merged("llama3", (adapter, "0.5")) / "manifest.json").read_text())
    (known,) = manifest["identity"]["adapters"]
    assert (known["model"], known["weight"]) == ("llama-lora", "0.5")
    assert set(known["inputs"]) == {"adapter_config.json", "adapter_model.safetensors"}


def _copy(tmp_path: Path, name: str = "llama-lora", **config: object) -> Path:
    source, target = DATA / "adapters" / name, tmp_path / "adapter"
    target.mkdir(parents=True)
    document = json.loads((source / "adapter_config.json").read_text()) | config
    (target / "adapter_config.json").write_text(json.dumps(document))
    save_file(load_file(source / "adapter_model.safetensors"), target / "adapter_model.safetensors")
    return target


@pytest.mark.parametrize(
    ("field", "value"),
    [("use_dora", True), ("fan_in_fan_out", True), ("peft_type", "LOHA"), ("lora_bias", True)],
)
def test_other_kinds_of_adapters_are_refused(
    field: str, value: object, merged: Build, tmp_path: Path
) -> None:
    with pytest.raises(UnknownArchitecture, match=field):
        merged("llama3", (_copy(tmp_path, **{field: value}), "1"))


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora", "corda", "loftq"])
def test_adapters_that_change_the_checkpoint_itself_are_refused(
    start: str, merged: Build, tmp_path: Path
) -> None:
    with pytest.raises(UnknownArchitecture, match=f"init_lora_weights is '{start}'"):
        merged("llama3", (_copy(tmp_path, init_lora_weights=start), "1"))


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model."])
def test_adapters_of_multimodal_models_change_their_language_model(
    prefix: str, merged: Build, tmp_path: Path
) -> None:
    adapter = _copy(tmp_path)
    file = adapter / "adapter_model.safetensors"
    renamed = {
        name.replace("model.layers.", f"{prefix}layers."): tensor
        for name, tensor in load_file(file).items()
    }
    vision = f"base_model.model.{prefix.split('language')[0]}vision_tower.layers.0.q_proj.lora_"
    vision_pair = {f"{vision}{role}.weight": np.ones((2, 2), np.float32) for role in "AB"}
    save_file(renamed | vision_pair, file)
    with np.load(DATA / "adapters" / "llama-lora" / "expected.npz") as expected:
        logits = _logits(merged("llama3", (adapter, "1")), expected["prompt"])
        assert np.abs(logits - expected["logits"]).max() <= CLOSE


def _spoiled(tmp_path: Path, spoil: Callable[[dict[str, np.ndarray]], object]) -> Path:
    target = _copy(tmp_path)
    tensors = load_file(target / "adapter_model.safetensors")
    spoil(tensors)
    save_file(tensors, target / "adapter_model.safetensors")
    return target


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda t: t.pop(FIRST), "A and B belong together"),
        (lambda t: t.update({FIRST: np.ones((4, 63), np.float32)}), r"A \[4, 63\]"),
        (lambda t: t.update({FIRST.replace(".0.", ".9."): t[FIRST]}), r"changes model.layers.9"),
        (lambda t: t[FIRST].fill(np.nan), "NaN"),
        (lambda t: t.clear(), "holds no tensors"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(
    spoil: Callable[[dict[str, np.ndarray]], object], told: str, merged: Build, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointCorrupt, match=told):
        merged("llama3", (_spoiled(tmp_path, spoil), "1"))


def test_a_change_of_tied_matrices_is_refused(merged: Build, tmp_path: Path) -> None:
    target = _copy(tmp_path)
    name = "base_model.model.model.embed_tokens.lora_embedding_"
    pair = {f"{name}A": np.ones((2, 512), np.float32), f"{name}B": np.ones((64, 2), np.float32)}
    save_file(pair, target / "adapter_model.safetensors")
    with pytest.raises(UnknownArchitecture, match="tie_word_embeddings"):
        merged("llama-tied", (target, "1"))


def test_an_adapter_as_a_pickle_is_refused(merged: Build, tmp_path: Path) -> None:
    target = _copy(tmp_path)
    (target / "adapter_model.safetensors").rename(target / "adapter_model.bin")
    with pytest.raises(BuildError, match="pickle"):
        merged("llama3", (target, "1"))


def test_the_command_line_merges_adapters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = DATA / "adapters" / "llama-lora"
    store = ["--store", str(tmp_path / "store"), "--cache", str(tmp_path / "cache")]
    command = ["build", "--model", str(DATA / "llama3"), "--adapter", f"{adapter}=0.5", *store]
    assert main([*command, "--progress", "none"]) == 0
    assert "-lora1 at " in capsys.readouterr().err
    (manifest,) = (tmp_path / "store").glob("*/*/*/*/manifest.json")
    (known,) = json.loads(manifest.read_text())["identity"]["adapters"]
    assert known["weight"] == "0.5"
