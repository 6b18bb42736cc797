# make reproduce   the default study (or STUDY=params/x.yaml): data, training, metrics, figures, table
# make test        the test suite          make stress   kills, damaged files, the default study: the tests of minutes
# make lint        ruff and nbstripout
# make lab         JupyterLab with the notebooks
# Each does its own set-up, once, in .venv. Another torch than the pinned one (later: after `make clean`):
#   make setup TORCH="torch==2.11.0 torchvision==0.26.0" TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
STUDY ?= params/mlab_digits.yaml
CORES ?= all
OUTPUTS ?= outputs
TORCH ?= $(shell grep -E '^torch(vision)?==' constraints.txt)
TORCH_INDEX ?=
PYTEST ?=
WORKERS ?= 3

PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
QUIET_THREADS = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

ifneq ($(wildcard $(READY)),)
ifneq ($(findstring command line,$(origin TORCH) $(origin TORCH_INDEX)),)
ifneq ($(strip $(TORCH) $(TORCH_INDEX)),$(shell cat $(READY)))
$(error $(VENV) holds another torch than TORCH and TORCH_INDEX ask for: run `make clean` first)
endif
endif
endif

.DEFAULT_GOAL := help
.PHONY: help setup reproduce reference theory lab test stress lint format bench-metrics bench-train reference-gpu clean

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
	@echo $(strip $(TORCH) $(TORCH_INDEX)) > $(READY)

reproduce: $(READY)
	@$(BIN)/python -m nclib.study.launcher $(STUDY) --cores $(CORES) --outputs $(OUTPUTS) \
		$(if $(SMOKE),--smoke) $(if $(RUNS),--runs "$(RUNS)") $(if $(GPU_RUNS),--gpu-runs $(GPU_RUNS)) \
		$(if $(PROFILE),--profile $(PROFILE))

# make reference   make reproduce, and the study's small results copied to outputs/reference/
NAME = $(shell sed -n 's/^study: *//p' $(STUDY))
REFERENCE = outputs/reference/$(NAME)
reference: reproduce
	rm -rf $(REFERENCE) && mkdir -p $(REFERENCE)
	cp $(OUTPUTS)/$(NAME)/table.* $(OUTPUTS)/$(NAME)/figures/*.png $(OUTPUTS)/$(NAME)/04_figures.manifest.json $(REFERENCE)

# make reference-gpu   that for MLab-MNIST at paper scale on one GPU; stopped by `timeout 590`, it goes on where it was
reference-gpu:
	$(MAKE) reference STUDY=params/mlab_mnist.yaml RUNS="resnet18_learned resnet18_etf"

theory: $(READY)
	$(BIN)/python -m nclib.study.runner notebooks/00_theory.ipynb $(OUTPUTS)/theory/00_theory.ipynb '{}'

lab: $(READY)
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --notebook-dir=. notebooks/05_explore.ipynb

test: $(READY)
ifdef PYTEST
	$(BIN)/python -m pytest $(PYTEST)
else
	$(QUIET_THREADS) $(BIN)/python -m pytest -m "not timing and not stress" $(PARALLEL)
	$(BIN)/python -m pytest -m timing
endif

stress: $(READY)
	$(QUIET_THREADS) $(BIN)/python -m pytest -m stress $(PARALLEL)

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
