# make demo   set up, edit test cases with the packaged model, write demo/report.html
# make test   set up, run the default tests (all but the slow ones)
# make check  set up, run ruff, mypy and the default tests
# make path   set up, go the whole way from a pile of pictures to an editor
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
FITS   := -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))'
# the first interpreter that runs and is 3.11 or 3.12
PYTHON ?= $(shell for p in python3 python3.11 python3.12; do $$p $(FITS) 2>/dev/null && echo $$p && break; done)

.PHONY: demo path test test-all test-real test-peers lint check bench docs setup clean experiment experiment-pause experiment-status

# The registered experiment (docs/results/registered/conflict.md): hours of one core at the lowest priority. It goes on
# from where it was stopped; commit the finished runs in EXPERIMENT_RUNS.
EXPERIMENT := tagworld/conflict --out runs/conflict
EXPERIMENT_RUNS := docs/results/registered/runs
EXPERIMENT_PLAN := recipes/tagworld/conflict/plan.yaml

experiment: $(READY)
	OMP_NUM_THREADS=1 $(VENV)/bin/tagmoe ablation run $(EXPERIMENT) --plan $(EXPERIMENT_PLAN) --results $(EXPERIMENT_RUNS)

# saves and ends the process, for example while something is timed; make experiment goes on
experiment-pause: $(READY)
	$(VENV)/bin/tagmoe ablation pause --out runs/conflict

experiment-status: $(READY)
	$(VENV)/bin/tagmoe ablation status $(EXPERIMENT) --plan $(EXPERIMENT_PLAN) --results $(EXPERIMENT_RUNS)

demo: $(READY)
	$(VENV)/bin/tagmoe demo --out demo --force

# from a pile of pictures to an editor, at the size of a toy (docs/full_path.md)
PATH_OUT ?= runs/full-path
path: $(READY)
	rm -rf $(PATH_OUT)
	PATH="$(abspath $(VENV))/bin:$$PATH" bash recipes/full_path.sh $(PATH_OUT)

test: $(READY)
	$(PY) -m pytest

test-all: $(READY)
	$(PY) -m pytest -m 'slow or not slow' --timeout=1800

# with weights that somebody trained; tests/real.txt says how to get them. REAL: their folder
REAL ?= .real
test-real: $(READY)
	@test -d "$(REAL)" || echo "skipped: there is no folder $(REAL); tests/real.txt says how to make it"
	@test ! -d "$(REAL)" || REAL="$(abspath $(REAL))" $(PY) -m pytest -m real tests/real

# diffusers' own tests against our classes, beside its own; they are in no package, so a checkout is needed
test-peers: $(READY)
	@test -d "$(DIFFUSERS)/tests" || echo "skipped: give make test-peers DIFFUSERS=<checkout of diffusers at the installed version>"
	@test ! -d "$(DIFFUSERS)/tests" || \
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt parameterized requests-mock
	@test ! -d "$(DIFFUSERS)/tests" || DIFFUSERS_CHECKOUT="$(abspath $(DIFFUSERS))" $(PY) -m pytest tests/peers

lint: $(READY)
	$(VENV)/bin/ruff check src tests benchmarks tools docs
	$(VENV)/bin/ruff format --check src tests benchmarks tools docs
	$(VENV)/bin/mypy

check: lint test

bench: $(READY)
	$(PY) benchmarks/cli.py
	$(PY) benchmarks/train_speed.py
	$(PY) benchmarks/world.py
	$(PY) benchmarks/moe_layer.py --shapes small
	$(PY) benchmarks/train_step.py --sizes tagworld
	$(PY) benchmarks/memory.py
	$(PY) benchmarks/data_path.py --rows 400 --many 20000
	$(PY) benchmarks/annotate.py --requests 1280 --rows 1000

# the site, in the folder site; a warning is an error
docs: $(READY) $(VENV)/.docs
	rm -rf site
	$(VENV)/bin/zensical build --strict --clean

$(VENV)/.docs: docs/requirements.txt $(READY)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --requirement docs/requirements.txt
	touch $(VENV)/.docs

setup: $(READY)

# torch first and by itself: its version (in constraints.txt) decides which build of everything else fits.
# A half-made environment is removed: the next call would take it for a whole one.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "tagmoe needs Python 3.11 or 3.12; install one, or call make PYTHON=/path/to/it"; exit 1; }
	@"$(PYTHON)" $(FITS) 2>/dev/null || \
	{ echo "PYTHON=$(PYTHON) is no Python 3.11 or 3.12; tagmoe needs one of them"; exit 1; }
	@test -x $(PY) || "$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
	echo "$(PYTHON) -m venv failed; install its venv module (Debian: python3-venv), then run make again"; exit 1; }
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) demo build dist site src/*.egg-info
