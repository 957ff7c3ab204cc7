# Everything a fresh machine with Python 3.11 and make needs: each target sets up .venv from the lock file by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test check bench bench-peers lock proto clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY)  ## virtual environment in .venv, locked install

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("openoutcry needs Python 3.11 or newer; set PYTHON=") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV): about a minute, once" >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY)  ## run everything on a simulated world, no network needed (ARGS="--seed 3 --json")
	@$(BIN)/openoutcry demo $(ARGS)

serve: $(READY)  ## run against the real venues (ARGS="--http 127.0.0.1:8000")
	@$(BIN)/openoutcry serve $(ARGS)

check: $(READY)  ## ruff, mypy strict, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

test: check  ## all checks and all tests
	@$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

bench: $(READY)  ## tables of ratios: ours beside a floor, in the same run (ARGS="decode candles")
	@$(BIN)/python -m bench $(ARGS)

bench-peers: $(READY)  ## ccxt and cryptofeed on the same frames, in an environment of their own
	@test -x .bench-peers/bin/python || $(PYTHON) -m venv .bench-peers
	@.bench-peers/bin/pip install --quiet --disable-pip-version-check --requirement bench/peers.txt
	@$(BIN)/python -m bench.peers .bench-peers/bin/python

lock: $(READY)  ## write requirements.lock anew from pyproject.toml
	@$(BIN)/pip-compile --quiet --all-extras --generate-hashes --strip-extras --allow-unsafe --no-header \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file requirements.lock pyproject.toml

PROTO := openoutcry/api/kiyotaka/proto
LYKKE_PROTO := openoutcry/api/lykke/proto
proto: $(READY)  ## compile the .proto files of the dialects
	@$(BIN)/python -m grpc_tools.protoc -I$(PROTO)/service -I$(PROTO)/lib -I$(PROTO)/types --include_imports \
	  --include_source_info --descriptor_set_out=openoutcry/api/kiyotaka/contract.binpb api/api.proto
	@$(BIN)/python -m grpc_tools.protoc -I$(LYKKE_PROTO) --include_imports --include_source_info \
	  --descriptor_set_out=openoutcry/api/lykke/contract.binpb isalive.proto publicService.proto privateService.proto

clean:  ## remove .venv and caches
	rm -rf $(VENV) .bench-peers .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
