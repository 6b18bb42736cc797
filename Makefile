# make reproduce      a study from its data to figures and a table
#   STUDY=params/mlab_digits.yaml   the study file
#   SMOKE=1           cut down to about a minute
#   RUNS="learned etf"              only these of its runs
#   SEEDS="0 1 2"     these seeds instead of the study's own
#   CORES=4           processor cores to use; all of them otherwise
#   GPU_RUNS=2        trainings at once on one GPU; one otherwise
#   KEEP_CODE=1       keep results that an older state of the code made
#   PROFILE=slurm     on a cluster (docs/cluster.md)
#   OUTPUTS=outputs   the folder of all results
# make check          every result of the study compared with its manifest
# make verify         every claim of the papers on the reference results
#   STUDY=params/mlab_digits.yaml   of this study, on its own results in OUTPUTS
# make predict        the geometry to expect of a study, without training
#   RUNS="learned"    of these of its runs
#   LABELS=my.csv     with these label sets and counts instead of its own
# make theory         the theory notebook, executed, in OUTPUTS/theory
# make lab            JupyterLab with the notebooks
# make test           the test suite
#   PYTEST="-k metrics"             only these tests
#   WORKERS=3         tests at once
# make stress         the tests of minutes: kills, damage, the default study
# make lint           ruff, nbstripout and, where npx is there, tsc
# make types          pyright over the library, where npx is there
# make format         repair what they find
# make reference      make reproduce, small results to outputs/reference/
# make reference-gpu  that for MLab-MNIST at paper scale on one GPU
# make gallery        the README's moving picture, from the default study
# make docs           the site, from the default study, in docs/_build/html
# make bench-metrics  the benchmarks (benchmarks/README.md)
# make bench-train
# make setup          the environment .venv, which every target makes itself
#   PYTHON=python3.12               the Python to make it with
#   TORCH="torch==2.11.0 torchvision==0.26.0"
#   TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                     another build of torch than that of requirements.lock
#   UV=               install with pip alone, in five times the time
# make clean          remove it
PYTHON ?= python3
STUDY ?= params/mlab_digits.yaml
SMOKE ?=
RUNS ?=
SEEDS ?=
CORES ?= all
GPU_RUNS ?=
KEEP_CODE ?=
PROFILE ?=
OUTPUTS ?= outputs
LABELS ?=
TORCH ?= $(shell sed -nE 's/^(torch(vision)?==[^ ;]+).*/\1/p' requirements.lock)
TORCH_INDEX ?=
UV ?= $(or $(shell command -v uv),$(BIN)/uv)
PYTEST ?=
WORKERS ?= 3
VARIABLES = PYTHON STUDY SMOKE RUNS SEEDS CORES GPU_RUNS KEEP_CODE PROFILE OUTPUTS LABELS TORCH TORCH_INDEX UV PYTEST WORKERS

# A misspelled variable would leave its default in force without a word.
UNKNOWN := $(filter-out $(VARIABLES),$(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name))))
ifneq ($(strip $(UNKNOWN)),)
$(error unknown variable $(UNKNOWN); there are $(VARIABLES): see `make help`)
endif

PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
QUIET_THREADS = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOG := $(VENV)/setup.log
NCLIB = $(BIN)/python -m nclib

ifneq ($(wildcard $(READY)),)
ifneq ($(findstring command line,$(origin TORCH) $(origin TORCH_INDEX)),)
ifneq ($(strip $(TORCH) $(TORCH_INDEX)),$(shell cat $(READY)))
$(error $(VENV) holds another torch than TORCH and TORCH_INDEX ask for: run `make clean` first)
endif
endif
endif

.DEFAULT_GOAL := help
.PHONY: help setup reproduce check reference verify predict theory lab test stress lint types format gallery docs bench-metrics bench-train reference-gpu clean

help:
	@sed -n 's/^# \{0,1\}//p;/^PYTHON/q' Makefile

# Shell functions: pip fetches uv where it is not found, and installs everything itself where that fails, too. uv would leave
# bytecode to be compiled by the first process that needs it, or, with PYTHONDONTWRITEBYTECODE, by every one.
PIP = $(BIN)/pip install --disable-pip-version-check
LOCKED = --no-deps --require-hashes --requirement
PART = awk '/^[a-z]/ { keep = $(1) } keep' requirements.lock > $(VENV)/requirements.lock
INSTALLER = get_uv() { $(call PART,/^uv==/) && $(PIP) $(LOCKED) $(VENV)/requirements.lock || true; }; \
	add() { if command -v "$(UV)"; then UV_COMPILE_BYTECODE=1 "$(UV)" pip install --python $(BIN)/python "$$@"; else $(PIP) "$$@"; fi; }
ifeq ($(origin TORCH)$(strip $(TORCH_INDEX)),file)
INSTALL_ALL = add $(LOCKED) requirements.lock
else  # the lock has the hashes of the package index's own build of torch only
OF_TORCH = torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+
INSTALL_ALL = add $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH) \
	&& $(call PART,!/^($(OF_TORCH))==/) && add $(LOCKED) $(VENV)/requirements.lock
endif

setup: $(READY)

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "nclib needs Python 3.11 or newer; name one with PYTHON=, e.g. make setup PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV) once: about two minutes on a fast network, and 6 GB of disk, 2 GB with a CPU build of torch (log: $(LOG)) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALLER); { $(if $(filter $(BIN)/uv,$(UV)),get_uv &&) $(INSTALL_ALL) && add --no-deps --no-build-isolation --editable .; } > $(LOG) 2>&1 || \
		{ grep -v '^WARNING: Location' $(LOG) | tail -n 20; echo "Setting up $(VENV) failed; the whole log is $(LOG)"; exit 1; } >&2
	@echo $(strip $(TORCH) $(TORCH_INDEX)) > $(READY)

# Ctrl-C ends make itself, too; it would also report the recipe as one that has failed.
INTERRUPTIBLE = trap 'exit 0' INT;

reproduce: $(READY)
	@$(INTERRUPTIBLE) $(NCLIB) reproduce $(STUDY) --cores $(CORES) --outputs $(OUTPUTS) \
		$(if $(filter-out 0,$(SMOKE)),--smoke) $(if $(filter-out 0,$(KEEP_CODE)),--keep-code) \
		$(if $(RUNS),--runs "$(RUNS)") $(if $(SEEDS),--seeds "$(SEEDS)") $(if $(GPU_RUNS),--gpu-runs $(GPU_RUNS)) \
		$(if $(PROFILE),--profile $(PROFILE))

NAME = $(shell sed -n 's/^study: *//p' $(STUDY))
REFERENCE = outputs/reference/$(NAME)
reference: reproduce
	rm -rf $(REFERENCE) && mkdir -p $(REFERENCE)
	cd $(OUTPUTS)/$(NAME) && cp *.csv *.md figures/* 04_figures.manifest.json $(abspath $(REFERENCE))
	$(BIN)/python docs/parts.py

reference-gpu: STUDY = params/mlab_mnist.yaml
reference-gpu: RUNS = resnet18_learned resnet18_etf
reference-gpu: reference

check: $(READY)
	@$(INTERRUPTIBLE) $(NCLIB) check $(STUDY) --outputs $(OUTPUTS)

ifeq ($(origin STUDY),command line)
verify: reproduce
	@$(INTERRUPTIBLE) $(NCLIB) verify $(STUDY) --from $(OUTPUTS)
else
verify: $(READY)
	@$(INTERRUPTIBLE) $(NCLIB) verify
endif

predict: $(READY)
	@$(INTERRUPTIBLE) $(NCLIB) predict $(STUDY) $(RUNS) --outputs $(OUTPUTS) $(if $(LABELS),--labels $(LABELS))

theory: $(READY)
	@$(INTERRUPTIBLE) $(NCLIB) theory $(OUTPUTS)/theory/00_theory.ipynb

lab: $(READY)
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.ip=127.0.0.1 --notebook-dir=. \
		notebooks/05_explore.ipynb

test: $(READY)
ifdef PYTEST
	$(BIN)/python -m pytest $(PYTEST)
else
	$(QUIET_THREADS) $(BIN)/python -m pytest -m "not timing and not stress" $(PARALLEL)
	$(BIN)/python -m pytest -m timing
endif

stress: $(READY)
	$(QUIET_THREADS) $(BIN)/python -m pytest -m stress $(PARALLEL)

# finds undefined and unused names and wrong types by itself, where eslint needs a configuration and plugins
TSC = npx --yes --package typescript@5.9.3 tsc --noEmit --checkJs --target es2023 --lib es2023,dom,dom.iterable \
	--noUnusedLocals --noUnusedParameters --noImplicitReturns

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb
	@if command -v npx > /dev/null; then $(TSC) nclib/explore/explorer.js; else echo "no npx: JavaScript is not checked"; fi

types: $(READY)
	@if command -v npx > /dev/null; then npx --yes --package pyright@1.1.414 pyright --pythonpath $(BIN)/python; \
		else echo "no npx: types are not checked"; fi

format: $(READY)
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/nbstripout --keep-id notebooks/*.ipynb

gallery: reproduce
	$(BIN)/python docs/movie.py $(OUTPUTS)/mlab_digits

docs: KEEP_CODE = 1
docs: reproduce
	@$(NCLIB) theory $(OUTPUTS)/theory/00_theory.ipynb
	@$(NCLIB) notebook notebooks/05_explore.ipynb $(OUTPUTS)/explore/05_explore.ipynb '{"outputs": "$(OUTPUTS)"}'
	NCLIB_OUTPUTS=$(OUTPUTS) $(BIN)/python -m sphinx -W --keep-going -q -c docs . docs/_build/html
	@echo "The site: docs/_build/html/index.html"

bench-metrics: $(READY)
	$(BIN)/python benchmarks/bench_metrics.py

bench-train: $(READY)
	$(BIN)/python benchmarks/bench_train.py

clean:
	rm -rf $(VENV)
