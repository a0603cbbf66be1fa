#!/usr/bin/env bash
# Establishes every fact, each in a process of its own and within a limit of time.
#
# TensorRT's Python bindings, Pitcrew's builder, cuda-python, numpy and onnx must be importable; a
# GPU must be there. Arguments choose facts by name.
set -u
cd "$(dirname "$0")"
golden=../../../tests/golden/data
limit=${FACTS_LIMIT:-240}

fact() {
  local name=$1
  shift
  if [ ${#wanted[@]} -eq 0 ] || [[ " ${wanted[*]} " == *" $name "* ]]; then
    timeout "$limit" python3 -W ignore "$@" 2>&1 || echo "-- $name: ended with $?"
  fi
}

wanted=("$@")
fact library library.py
fact aot aot_plugin.py
fact alias aot_plugin.py --alias
fact refit refit.py
fact refit-own refit.py --products kernel
fact plugin plugin_or_body.py $golden/llama3
fact plugin-bf16 plugin_or_body.py $golden/llama3 --precision bf16
fact capture speed.py --small --batch 1 4 --context 64
all=(llama3 qwen2 qwen3 mixtral gemma2 gemma3 phi3 olmo2 gpt-oss starcoder2)
own=(--attention kernel --products kernel)
fact families families.py "${all[@]/#/$golden/}"
fact families-own families.py "${all[@]/#/$golden/}" "${own[@]}"
fact sample sample.py
fact serving serving.py
fact speed speed.py
fact speed-own speed.py "${own[@]}"
fact products product_kernel.py
fact products-in-plan product_alone.py
fact kernel attention_kernel.py
fact kernel-in-plan attention_alone.py
fact nccl nccl.py
fact families-split families.py "${all[@]/#/$golden/}" "${own[@]}" --tensor-parallel 2
fact serving-split serving.py --tensor-parallel 1 2
