# make reproduce   the default study (or STUDY=params/x.yaml): data, training, metrics, figures, table
# make test        the test suite          make lint   ruff and nbstripout
# make lab         JupyterLab with the notebooks
# Each does its own set-up, once, in .venv. Another torch than the pinned one:
#   make setup TORCH="torch==2.11.0 torchvision==0.26.0" TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
STUDY ?= params/mlab_digits.yaml
CORES ?= all
OUTPUTS ?= outputs
TORCH ?= $(shell grep -E '^torch(vision)?==' constraints.txt)
TORCH_INDEX ?=
PYTEST ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup reproduce theory lab test lint format bench-metrics bench-train reference-gpu clean

help:
	@sed -n 's/^# //p' Makefile

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "nclib needs Python 3.11 or newer; name one with PYTHON=, e.g. make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	grep -vE '^torch(vision)?==' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(VENV)/constraints.txt --editable ".[dev]"
	@touch $(READY)

reproduce: $(READY)
	@$(BIN)/python -m nclib.reproduce $(STUDY) --cores $(CORES) --outputs $(OUTPUTS) \
		$(if $(SMOKE),--smoke) $(if $(PROFILE),--profile $(PROFILE))

theory: $(READY)
	$(BIN)/python -m nclib.notebook notebooks/00_theory.ipynb $(OUTPUTS)/theory/00_theory.ipynb '{}'

lab: $(READY)
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --notebook-dir=. notebooks/05_explore.ipynb

test: $(READY)
	$(BIN)/python -m pytest $(PYTEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

format: $(READY)
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/nbstripout --keep-id notebooks/*.ipynb

bench-metrics: $(READY)
	$(BIN)/python benchmarks/bench_metrics.py

bench-train: $(READY)
	$(BIN)/python benchmarks/bench_train.py

clean:
	rm -rf $(VENV)
