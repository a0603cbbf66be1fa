"""onnxruntime-genai at work, in its own environment: a batch a line in, what it took a line out.

    python genai_batches.py MODEL

Batches are static and in this process: nothing is sent over a network, all sequences begin and end
together. That is the kindest case for it. Lines are JSON: {"prompts": [[int]], "output": int} in,
{"seconds", "first", "tokens"} out.
"""

import json
import sys
import time

import numpy as np
import onnxruntime_genai as og


def main() -> None:
    """Answer until the end of the input."""
    model = og.Model(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(generate(model, **json.loads(line))), flush=True)


def generate(model: og.Model, prompts: list[list[int]], output: int) -> dict[str, object]:
    """Greedy, and no end before the asked length."""
    length = len(prompts[0]) + output
    started = time.perf_counter()
    params = og.GeneratorParams(model)
    params.set_search_options(
        batch_size=len(prompts), min_length=length, max_length=length, do_sample=False,
        past_present_share_buffer=True,
    )  # fmt: skip
    generator = og.Generator(model, params)
    generator.append_tokens(np.array(prompts, np.int32))
    generator.generate_next_token()
    first = time.perf_counter() - started
    while not generator.is_done():
        generator.generate_next_token()
    seconds = time.perf_counter() - started
    tokens = [len(generator.get_sequence(i)) - len(prompts[0]) for i in range(len(prompts))]
    return {"seconds": seconds, "firsts": [first] * len(prompts), "tokens": tokens}


if __name__ == "__main__":
    main()
