# disttrain: `make demo` shows it, `make test` proves it. `make help` lists the rest.
PYTHON ?= python3
NODES ?= 1
TRIALS ?= 20
PY := .venv/bin/python
STEP = @printf '\n==> [%s] %s\n' "$$(date +%H:%M:%S)"
export OMP_NUM_THREADS ?= 1

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.ready: pyproject.toml
	$(STEP) "virtual environment (.venv) with torch: minutes the first time"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "Python's venv module is missing: apt-get install python3-venv"; exit 2; }
	@test -x $(PY) || $(PYTHON) -m dev.room
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@test -x .venv/bin/uv || .venv/bin/python -m pip install --quiet 'uv>=0.9,<1'
	@.venv/bin/uv pip install --python $(PY) --quiet --compile-bytecode -e '.[dev,worker,examples]'
	@touch $@

.PHONY: setup
setup: .venv/.ready ## virtual environment with everything

.PHONY: demo
demo: setup ## cluster, images, operator, a real training job, the death of a worker, a report
	@$(PY) -m dev.demo

.PHONY: test
test: check test-fast test-torch test-cluster ## everything, from pure functions to the real cluster
	$(STEP) "all layers passed"

.PHONY: check
check: setup ## format, lint, types, import contracts
	$(STEP) "ruff, mypy, import contracts"
	@.venv/bin/ruff format --check --quiet . && .venv/bin/ruff check --quiet .
	@.venv/bin/mypy
	@.venv/bin/mypy dev --explicit-package-bases
	@.venv/bin/lint-imports

.PHONY: test-fast
test-fast: setup ## pure, in-memory and loopback tests
	$(STEP) "fast tests"
	@$(PY) -m pytest -q -m 'not torch and not server and not cluster'

.PHONY: explore
explore: setup ## property tests with new random examples, 30 times as many: not part of `make test`
	$(STEP) "property tests, 3,000 random examples each"
	@HYPOTHESIS_PROFILE=explore $(PY) -m pytest -q -x -m 'hypothesis and not torch and not server and not cluster'

.PHONY: explore-meshes
explore-meshes: setup ## other grids of ranks, 10 times as many: a quarter of an hour, not part of `make test` (SEED=…)
	$(STEP) "meshes drawn from a seed"
	DISTTRAIN_MESHES=10 DISTTRAIN_MESHES_SEED=$(or $(SEED),$(shell date +%s)) $(PY) -m pytest -q -m torch tests/strategies/test_meshes.py

.PHONY: test-torch
test-torch: setup ## real gloo processes
	$(STEP) "tests with real gloo processes"
	@$(PY) -m pytest -q -m 'torch and not accuracy'

.PHONY: accuracy
accuracy: setup ## asynchronous strategies beside the spread of five synchronous seeds: minutes, not part of `make test`
	@$(PY) -m pytest -q -m accuracy

.PHONY: test-cluster
test-cluster: install ## real API server, kubelet, containers, volumes; with NODES=2 also what needs two nodes
	$(STEP) "tests on the real cluster"
	@$(PY) -m pytest -q -m 'server or cluster'

.PHONY: cluster-up
cluster-up: setup ## a real Kubernetes on this machine (NODES=2 for two nodes)
	@$(PY) -m dev.cluster up --nodes $(NODES)

.PHONY: cluster-down
cluster-down: ## end it; nothing else is touched
	@test ! -x $(PY) || $(PY) -m dev.cluster down

.PHONY: cluster-status
cluster-status: setup ## what runs
	@$(PY) -m dev.cluster status

.PHONY: image-load
image-load: setup ## build both images and load them into the cluster
	@$(PY) -m dev.cluster image-build
	@$(PY) -m dev.cluster image-load

.PHONY: install
install: cluster-up image-load ## the operator, by Helm
	@$(PY) -m dev.install

.PHONY: bench-scale
bench-scale: cluster-up ## 1,000 jobs of 4 pods on KWOK: time, memory, writes
	@$(PY) -m benchmarks.scale

.PHONY: bench-recovery
bench-recovery: setup ## SIGKILL to the next new step, beside torchrun and torchft: an hour (QUICK=1: minutes)
	@$(PY) -m benchmarks.recovery $(if $(QUICK),--quick,--trials $(TRIALS))

.PHONY: bench-strategies
bench-strategies: setup ## bytes, time, memory, accuracy of every strategy beside formula and bare torch; a slow link (as root; QUICK=1)
	@PYTHONPATH=.:operator:trainer_image nice -n 5 $(PY) -m benchmarks.strategies $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

.PHONY: bench-storm
bench-storm: install ## ten minutes of random faults on the cluster: does the result change by one bit? (SECONDS=600 SEED=…)
	@$(PY) -m benchmarks.storm --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED))

.PHONY: bench-partition
bench-partition: ## a node's cable is pulled and put back, on two nodes of the local cluster (ROUNDS=5)
	@$(MAKE) --no-print-directory install NODES=2
	@$(PY) -m benchmarks.partition --rounds $(or $(ROUNDS),5)

.PHONY: bench-corruption
bench-corruption: setup ## 100,000 random damages of checkpoints: none may be accepted
	@PYTHONPATH=trainer_image $(PY) -m benchmarks.corruption

.PHONY: crd
crd: setup ## regenerate crds/, which the chart links to
	@$(PY) -m disttrain.api.crd > crds/disttrain.dev_disttrainjobs.yaml

.PHONY: format
format: setup ## format and mend what can be mended
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

.PHONY: clean
clean: cluster-down ## the cluster, its state and the virtual environment; built tools stay cached
	@test ! -x $(PY) || $(PY) -m dev.cluster clean
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
