# Nyquist: `make serve` and `make test` need nothing but Python 3.11 on Linux.

PYTHON ?= python3
RUNTIME ?= $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
VENV := .venv
IN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed-$(RUNTIME)
REPOSITORY := model_repository
DISK_MB := $(if $(filter gpu,$(RUNTIME)),9000,3000)

.PHONY: help serve test skips mutate check lint types bench bench-quick models docs install proto lock clean

help: ## say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

serve: models ## install, build the models, serve them (gRPC 8001, metrics 8002) until Ctrl-C
	@$(IN) -m nyquist.server --repository $(REPOSITORY)

test: skips models ## install, build the models, run the whole test suite (ARGS: of pytest)
	@$(IN) -m pytest --numprocesses auto --dist loadscope --no-loadscope-reorder $(ARGS)

skips:
	@missing=; for program in prometheus promtool amtool npm nginx; do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	if [ -z "$$missing" ]; then echo "make test: no test will be skipped for want of a program"; \
	else echo "make test: tests will be skipped that need$$missing (dashboards, rules and exemplars need Prometheus, who is told of alerts Alertmanager, a client in Node.js needs npm, a rolling restart nginx); to have them: apt-get install prometheus prometheus-alertmanager nodejs npm nginx-light"; fi

mutate: models ## break what differs from main (or FILES=...) in one place at a time: do the nearest tests go red?
	@$(IN) -m tests.mutate $(FILES) $(ARGS)

check: lint types test ## what CI runs

lint: $(INSTALLED) ## formatting, rules of style, arrows between the folders, dependencies
	@$(IN) -m ruff format --check .
	@$(IN) -m ruff check .
	@$(VENV)/bin/lint-imports
	@$(IN) -m deptry .
	@$(IN) -m vulture

types: $(INSTALLED) ## mypy --strict
	@$(IN) -m mypy models server client companion export benchmarks deploy tests

bench: models ## measure bare onnxruntime, Nyquist and its peers: half an hour, tables and plots
	@$(IN) -m benchmarks run
	@$(IN) -m benchmarks page

bench-quick: models ## the same without peers, in under five minutes, tables only
	@$(IN) -m benchmarks run --quick benchmark_results/quick.json

models: $(INSTALLED) ## build the models that changed: the build knows which
	@$(IN) export/build.py --output $(REPOSITORY)

docs: $(INSTALLED) ## build the pages and the reference as a site: then open site/index.html
	@$(IN) -m zensical build --strict

install: $(INSTALLED) ## make the virtual environment

# The lock leaves torch out: its wheel is another on machines with and without a GPU.
$(INSTALLED): pyproject.toml requirements/dev-$(RUNTIME).txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "error: Nyquist needs Python 3.11 or newer, '$(PYTHON)' is $$($(PYTHON) --version 2>&1); name another with make PYTHON=python3.11" >&2; exit 1; }
	@df -Pm . | awk 'NR == 2 && $$4 < $(DISK_MB) {print "error: $(DISK_MB) MB of disk are needed here, " $$4 " are free" > "/dev/stderr"; exit 1}'
	@echo "Installing into $(VENV) for $(RUNTIME): some minutes the first time."
	@if [ -n "$$(find $(VENV) -maxdepth 1 -name 'installed-*' ! -name installed-$(RUNTIME) 2>/dev/null)" ] || ! $(IN) -m pip --version >/dev/null 2>&1; then $(PYTHON) -m venv --clear $(VENV); fi
	$(IN) -m pip install --require-hashes -r requirements/dev-$(RUNTIME).txt
	$(IN) -m pip install torch==2.13.0
	$(IN) -m pip install --no-deps --no-build-isolation -e .
	@touch $(INSTALLED)

proto: $(INSTALLED) ## generate the stubs from proto/
	$(IN) -m tests.stubs

LOCK_ALL := uv pip compile -q pyproject.toml --python-version 3.11 --generate-hashes --no-annotate \
  --custom-compile-command "make lock"
LOCK := $(LOCK_ALL) --no-emit-package torch

lock: ## pin every dependency with its hashes (needs uv; TORCH_WHEELS names a folder with torch's CPU wheel)
	$(LOCK) --find-links $(TORCH_WHEELS) --extra cpu --extra export --extra bench --extra plan --extra dev --extra docs -o requirements/dev-cpu.txt
	$(LOCK) --find-links $(TORCH_WHEELS) --extra gpu --extra cuda --extra export --extra bench --extra plan --extra dev --extra docs -o requirements/dev-gpu.txt
	$(LOCK) --extra cpu --extra sources --extra tracing -o requirements/server-cpu.txt
	$(LOCK) --extra gpu --extra cuda --extra sources --extra tracing -o requirements/server-gpu.txt
	echo 'torch==2.13.0+cpu' | $(LOCK_ALL) - --find-links $(TORCH_WHEELS) --extra export --extra cpu --extra sources -o requirements/companion-cpu.txt

clean: ## remove what make made
	rm -rf $(VENV) .venvs $(REPOSITORY) benchmark_repository benchmark_results site
