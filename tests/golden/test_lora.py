"""Adapters as inputs against PEFT's own computation, and against the same adapters merged."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from pitcrew_builder.blocks.angles import tables
from pitcrew_builder.blocks.rope import Rope
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.pipeline import Places, build
from pitcrew_builder.progress import Tracker
from pitcrew_builder.spec import (
    Adapter,
    BuildSpec,
    LocalSource,
    Lora,
    Parallelism,
    Prompts,
    Proof,
    Quantization,
    WeightFormat,
)
from tests.golden.numpy_llama import Doubles, NumpyLlama
from tests.golden.reference import ReferenceEngine

DATA = Path(__file__).parent / "data"
ADAPTERS = DATA / "adapters"
BASES = {"llama-lora": "llama3", "phi3-lora": "phi3"}
CLOSE = 1e-4
ROUNDINGS = 32
"""By how much more the roundings of a whole network may move logits than one of its embeddings."""
# Larger than any adapter's, so that all are padded.
ROOM = Lora(max_adapters=3, max_rank=6)
SPLITS = {
    "tp2": Parallelism(tensor=2),
    # More ranks than KV heads: neighbours repeat one.
    "tp4": Parallelism(tensor=4),
    "tp2-pp2": Parallelism(tensor=2, pipeline=2),
}


class Build(Protocol):
    """Builds the engine of a checkpoint of the goldens, once for each set of options."""

    def __call__(self, base: str | Path, **options: object) -> ReferenceEngine: ...


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Build:
    root = tmp_path_factory.mktemp("lora")

    @cache
    def make(base: str | Path, **options: object) -> ReferenceEngine:
        spec = BuildSpec.model_validate({"source": _local(DATA / base), **options})
        places = Places(root / "store", root / "cache")
        return ReferenceEngine(places.store / build(spec, places, Tracker(lambda _: None)).path)

    return make


def _local(path: Path) -> LocalSource:
    return LocalSource(path=str(path), name=path.name)


def _expected(place: Path) -> tuple[list[list[int]], np.ndarray]:
    with np.load(place / "expected.npz") as data:
        return data["prompt"].tolist(), data["logits"]


@pytest.fixture(scope="module")
def rslora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another adapter for llama3: of another rank, scaled by its root, for two projections."""
    target = tmp_path_factory.mktemp("adapter") / "rslora"
    target.mkdir()
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 5, "use_rslora": True}
    (target / "adapter_config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(3)
    tensors = {}
    for name, tensor in load_file(ADAPTERS / "llama-lora" / "adapter_model.safetensors").items():
        if "v_proj" in name or "down_proj" in name:
            shape = (3, tensor.shape[1]) if "lora_A" in name else (tensor.shape[0], 3)
            tensors[name] = 0.2 * rng.standard_normal(shape, dtype=np.float32)
    save_file(tensors, target / "adapter_model.safetensors")
    return target


@pytest.mark.parametrize("name", BASES)
def test_an_adapter_in_a_slot_computes_what_peft_computes(name: str, engine: Build) -> None:
    prompts, logits = _expected(ADAPTERS / name)
    batch = engine(BASES[name], lora=ROOM).adapted([ADAPTERS / name] * 2)
    assert np.abs(np.stack(batch.feed(prompts)) - logits).max() <= CLOSE


def test_sequences_of_one_batch_have_adapters_of_their_own(engine: Build, rslora: Path) -> None:
    """Ragged, in chunks, over the pages that the same adapter filled."""
    lora = ADAPTERS / "llama-lora"
    (prompt, other), plain = _expected(DATA / "llama3")
    _, adapted = _expected(lora)
    merged = engine("llama3", adapters=(Adapter(source=_local(rslora)),))
    expected = [adapted[0], plain[1], *merged.batch(1).feed([other[:30]])]
    batch = engine("llama3", lora=ROOM).adapted([lora, None, rslora])
    rows = [prompt, other, other[:30]]
    chunks = [batch.feed([row[:19] for row in rows]), batch.feed([row[19:] for row in rows])]
    for *parts, logits in zip(*chunks, expected, strict=True):
        assert np.abs(np.concatenate(parts) - logits).max() <= CLOSE


def test_no_adapter_changes_no_bit(engine: Build) -> None:
    prompts, _ = _expected(DATA / "llama3")
    without, beside = engine("llama3"), engine("llama3", lora=ROOM)
    plain = np.stack(without.batch(2).feed(prompts))
    np.testing.assert_array_equal(np.stack(beside.batch(2).feed(prompts)), plain)
    assert beside.manifest["canary"] == without.manifest["canary"]


@pytest.mark.parametrize("tag", SPLITS)
@pytest.mark.parametrize("name", BASES)
def test_split_engines_take_adapters(name: str, tag: str, engine: Build) -> None:
    prompts, logits = _expected(ADAPTERS / name)
    split = engine(BASES[name], lora=ROOM, parallelism=SPLITS[tag])
    _, plain = _expected(DATA / BASES[name])
    batch = split.adapted([ADAPTERS / name, None])
    adapted, untouched = batch.feed(prompts)
    assert np.abs(adapted - logits[0]).max() <= CLOSE
    assert np.abs(untouched - plain[1]).max() <= CLOSE


def test_merged_adapters_are_what_slots_change(engine: Build, rslora: Path) -> None:
    """One adapter in the weights and another in a slot are both in the weights."""
    prompts, _ = _expected(DATA / "llama3")
    merged = Adapter(source=_local(ADAPTERS / "llama-lora"))
    both = engine("llama3", adapters=(merged, Adapter(source=_local(rslora))))
    beside = engine("llama3", adapters=(merged,), lora=ROOM)
    expected = np.stack(both.batch(2).feed(prompts))
    logits = np.stack(beside.adapted([rslora] * 2).feed(prompts))
    assert np.abs(logits - expected).max() <= CLOSE


class Exact(NumpyLlama):
    """In double precision, but for angles: transformers takes them in single precision."""

    def _rotate(self, x: Doubles) -> Doubles:
        rope = Rope(self.head_dim, self.config["rope_parameters"]["rope_theta"])
        cos, sin = (table.astype(np.float64)[:, None] for table in tables(rope, len(x)))
        low, high = np.split(x, 2, axis=-1)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def _exaggerated(target: Path, shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Doubles]:
    """An adapter that drowns the weights it changes; what it adds to them, exactly."""
    rng, scale = np.random.default_rng(seed), 64 / 4
    settings = {"peft_type": "LORA", "r": 16, "lora_alpha": 64, "use_rslora": True}
    pairs, changes = {}, {}
    for name, (outputs, inputs) in shapes.items():
        down = 0.3 * rng.standard_normal((16, inputs), dtype=np.float32)
        up = 0.3 * rng.standard_normal((outputs, 16), dtype=np.float32)
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        pairs |= {f"{prefix}.lora_A.weight": down, f"{prefix}.lora_B.weight": up}
        changes[name] = scale * up.astype(np.float64) @ down.astype(np.float64)
    target.mkdir()
    (target / "adapter_config.json").write_text(json.dumps(settings))
    save_file(pairs, target / "adapter_model.safetensors")
    return changes


@pytest.mark.parametrize("seed", range(3))
def test_exaggerated_adapters_are_as_exact_as_single_precision_is(
    engine: Build, tmp_path: Path, seed: int
) -> None:
    """What is left of exact numbers is what the network makes of a rounding, and no wrong factor."""
    base = "llama-one-kv-head"
    tensors = load_file(DATA / base / "model.safetensors")
    config = json.loads((DATA / base / "config.json").read_text())
    shapes = {name: one.shape for name, one in tensors.items() if name.endswith("_proj.weight")}
    changes = _exaggerated(tmp_path / "adapter", shapes, seed)
    prompts, _ = _expected(DATA / base)

    def exactly(factor: float = 1, noise: float = 0) -> Doubles:
        changed = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
        for name, change in changes.items():
            changed[name] += factor * change
        rows = changed["model.embed_tokens.weight"]
        rows *= 1 + noise * np.sign(np.random.default_rng(0).standard_normal(rows.shape))
        return np.stack([Exact(config, changed).logits(prompt) for prompt in prompts])

    def far(logits: Doubles) -> float:
        return float(np.abs(logits - exact).max())

    exact = exactly()
    allowed = ROUNDINGS * far(exactly(noise=2**-24))
    room = Lora(max_adapters=1, max_rank=18)
    slots = np.stack(engine(base, lora=room).adapted([tmp_path / "adapter"] * 2).feed(prompts))
    source = Adapter(source=_local(tmp_path / "adapter"))
    merged = np.stack(engine(base, adapters=(source,)).batch(2).feed(prompts))
    assert far(slots) <= allowed
    assert far(merged) <= allowed
    assert far(exactly(factor=1.001)) > allowed, "a factor that is wrong by a thousandth shows"


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llama3 with a tokenizer whose words are the ids, and its prompts in them."""
    target = tmp_path_factory.mktemp("speaking") / "llama3"
    shutil.copytree(DATA / "llama3", target)
    words = {str(token): token for token in range(512)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(target / "tokenizer.json"))
    prompts, _ = _expected(DATA / "llama3")
    lines = (json.dumps({"text": " ".join(map(str, prompt))}) for prompt in prompts)
    (target / "prompts.jsonl").write_text("\n".join(lines))
    return target


@pytest.mark.parametrize("weights", [WeightFormat.INT8, WeightFormat.INT4])
def test_narrow_weights_take_adapters(weights: WeightFormat, engine: Build, speaking: Path) -> None:
    """The adapter itself is not rounded: what it adds is as near as what it is added to."""
    prompts, logits = _expected(ADAPTERS / "llama-lora")
    _, plain = _expected(DATA / "llama3")
    proof = Proof(
        prompts=Prompts(path=str(speaking / "prompts.jsonl")), max_perplexity_increase_percent="99"
    )
    narrow = {"quantization": Quantization(weights=weights, block_size=16), "proof": proof}
    base = np.stack(engine(speaking, **narrow).batch(2).feed(prompts))
    beside = engine(speaking, lora=ROOM, **narrow)
    adapted, untouched = beside.adapted([ADAPTERS / "llama-lora", None]).feed(prompts)
    np.testing.assert_array_equal(untouched, base[1])
    rounding = np.abs(base - plain).max()
    assert np.abs(adapted - logits[0]).max() <= 2 * rounding
    assert np.abs(adapted - base[0]).max() > 2 * rounding, "the adapter changes more"


def test_slots_are_part_of_the_identity(engine: Build) -> None:
    engines = [
        engine("llama3", lora=lora).manifest
        for lora in (ROOM, Lora(max_adapters=3, max_rank=8), Lora(target_modules=("q_proj",)))
    ]
    engines.append(engine("llama3").manifest)
    assert len({manifest["engineId"] for manifest in engines}) == 4
    assert engines[0]["tag"].endswith("-slots3r6")
    assert "lora" not in engines[3]["identity"] or engines[3]["identity"]["lora"] is None


def test_only_the_targets_take_adapters(engine: Build) -> None:
    (rank,) = engine("llama3", lora=Lora(target_modules=("q_proj",))).manifest["ranks"]
    modules = {target["module"].rpartition(".")[2] for target in rank["lora"]}
    assert modules == {"q_proj"}
    (rank,) = engine("phi3", lora=ROOM).manifest["ranks"]
    kv = [t for t in rank["lora"] if t["module"].endswith("layers.0.self_attn.qkv_proj")]
    starts = [target["firstOutput"] for target in kv]
    assert starts == sorted(starts)
    assert sum(target["outputs"] for target in kv) == kv[0]["shape"][0]


def test_unknown_targets_are_refused_with_the_known_ones(engine: Build) -> None:
    with pytest.raises(InvalidSpec, match=r"names c_attn.*choose from down_proj, gate_proj"):
        engine("llama3", lora=Lora(target_modules=("q_proj", "c_attn")))


def test_a_rank_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Lora(max_rank=0)
