"""Does the parser take a plugin, or the function's body? And are both right?

Parses Pitcrew's graph of a tiny Llama: with no plugin; with one registered; with one registered
and the node's `plugin_namespace` and `plugin_version` taken away; with the override flag. Then
builds body and plugin and compares the logits of a prefill and a decode step.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from common import trt
from networks import Drawn, compile_plan, draw, parse
from saying import Fact
from session import Session

from pitcrew_builder.manifest import ResolvedShapes

PAGE = 8


def main() -> None:
    """Parse, build, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--precision", default="fp16")
    options = parser.parse_args()
    fact = Fact(f"plugin or body, {options.precision}")
    shapes = ResolvedShapes(max_batch_size=2, max_sequence_length=64, kv_page_size=PAGE)
    with tempfile.TemporaryDirectory() as work:
        drawn = draw(options.checkpoint, Path(work), shapes, options.precision, 16)
        plain = strip(drawn.graph)
        body = parse(drawn.graph)
        fact.check(f"the body is inlined without a plugin {body.problems}", plugins(body) == 0)
        fact.say("layers of the body", dict(Counter(body.layers)))

        from pitcrew_builder.targets.trt.attention.plugin import register

        register(90)
        chosen = parse(drawn.graph)
        fact.say("layers", dict(Counter(chosen.layers)))
        fact.check(
            f"the plugin is taken where the node names it {chosen.problems}",
            plugins(chosen) == drawn.layers,
        )
        unnamed = parse(plain)
        fact.say("plugins without the attributes", f"{plugins(unnamed)} {unnamed.problems}")
        flag = getattr(trt.OnnxParserFlag, "ENABLE_PLUGIN_OVERRIDE", None)
        if flag is not None:
            overridden = parse(plain, parser_flags=(flag,))
            fact.say(
                "plugins without them, with override",
                f"{plugins(overridden)} {overridden.problems}",
            )
        plan = compile_plan(chosen, drawn)
        reference = run(compile_plan(body, drawn), drawn)
        fact.say("plan bytes", len(plan))
        for name, (a, b) in zip(
            ("prefill", "decode"), zip(reference, run(plan, drawn), strict=True), strict=True
        ):
            distance = float(np.abs(a - b).max())
            fact.check(f"{name}: logits at most {distance:.1e} apart", distance < 2e-2)
    fact.end()


def plugins(parsed: object) -> int:
    """Layers that are plugins."""
    return sum("PLUGIN" in kind for kind in parsed.layers)


def strip(graph: Path) -> Path:
    """The same graph without the attributes that name a plugin."""
    model = onnx.load(graph, load_external_data=False)
    for node in model.graph.node:
        kept = [item for item in node.attribute if not item.name.startswith("plugin_")]
        del node.attribute[:]
        node.attribute.extend(kept)
    for function in model.functions:
        names = [name for name in function.attribute if not name.startswith("plugin_")]
        del function.attribute[:]
        function.attribute.extend(names)
    target = graph.with_name("plain.onnx")
    target.write_bytes(model.SerializeToString())
    return target


def run(plan: bytes, drawn: Drawn) -> list[np.ndarray]:
    """Logits of a prefill of 5 tokens after 8, in two rows, and of a decode step after it."""
    rng = np.random.default_rng(0)
    shape = (8, PAGE, drawn.kv_heads, drawn.head_dim)
    pools = {
        f"{kind}_pool.{layer}": rng.standard_normal(shape, dtype=np.float32)
        for layer in range(drawn.layers)
        for kind in ("key", "value")
    }
    return [
        Session(trt, plan, profile).run(
            ["logits"],
            {
                "input_ids": rng.integers(0, drawn.vocab, (2, new)),
                "positions": np.tile(np.arange(11, 11 + new), (2, 1)),
                "block_tables": np.array([[3, 6], [1, 4]]),
                "context_lengths": np.array([11, 11]),
                "logit_indices": np.full((2, 1), new - 1),
                **pools,
            },
        )[0]
        for profile, new in enumerate((5, 1))
    ]


if __name__ == "__main__":
    main()
