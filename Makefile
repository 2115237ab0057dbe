# Needs make and Python 3.11 or newer with venv. Everything is installed into .venv in this folder.
# Another Python: make test PYTHON=python3.12

FITS   := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	"$$p" $(FITS) 2>/dev/null && { echo "$$p"; break; }; done)
READY  := .venv/.installed
ARGS   ?=
NB     ?= nbs

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-slow test-all test-oldest machines evidence gpu carry setup lab docs readme export notebooks clean
.DEFAULT_GOAL := help

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(READY) ## train the demos of the three studies and their controls, write the report
	grok_nb_demo $(ARGS)

# Cheap checks come first: the package is what the notebooks export, notebooks are clean, README is fresh.
test: $(READY) ## what every change must pass: repository, notebooks, quick tests
	python -m pytest -q -x --durations=0 --durations-min=5 tests/test_repository.py
	export GROK_NB_RUNS="$$(mktemp -d)"; trap 'rm -rf "$$GROK_NB_RUNS"' EXIT; \
	OMP_NUM_THREADS=1 nbdev_test --n_workers 2 --timing --skip_folder_re '^([_.]|tutorials)'
	OMP_NUM_THREADS=1 python -m pytest -m "not slow" -n 2 --dist worksteal --deselect tests/test_repository.py $(ARGS)

test-slow: $(READY) # what `make test` leaves out: the tutorials, which train the longest, and the slow tests
	export GROK_NB_RUNS="$$(mktemp -d)"; trap 'rm -rf "$$GROK_NB_RUNS"' EXIT; \
	OMP_NUM_THREADS=1 nbdev_test --n_workers 2 --timing --path nbs/tutorials
	OMP_NUM_THREADS=1 python -m pytest -m slow -n 2 --dist worksteal $(ARGS)

test-all: test test-slow ## every check, also those that take long and rarely find anything

# A training takes another path on every CPU: the pages that train, and the presets, under the kernels of others.
machines: $(READY) ## what the trainings come to under other CPUs' kernels and with two threads: about an hour
	python tests/machines.py $(ARGS)

evidence: $(READY) ## train and measure again what is missing or out of date in the evidence: hours
	grok_nb_evidence $(ARGS)

# Nothing is installed: the package is imported from this folder, with the Python whose torch knows the GPU.
gpu: ## train what is worth a GPU and not done yet: make gpu ARGS="--minutes 9 --out gpu"
	PYTHONPATH="$(CURDIR):$(CURDIR)/.carry" python3 -c "from grok_nb.gpu import grok_nb_gpu; grok_nb_gpu()" $(ARGS)

carry: # what a GPU machine without network may lack, into the folder .carry
	"$(PYTHON)" -m pip install --quiet --no-deps --upgrade --target .carry -c constraints.txt fastcore

setup: $(READY) ## create .venv and install what is missing

# Made again only when one of these files is newer.
$(READY): settings.ini setup.py pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] && "$(PYTHON)" $(FITS) 2>/dev/null || \
	{ echo "grok_nb needs Python 3.11 or newer$(if $(PYTHON),; $(PYTHON) is not). Name one: make PYTHON=python3.12" >&2; exit 2; }
	@.venv/bin/python $(FITS) 2>/dev/null || { echo "Creating .venv with $(PYTHON)"; "$(PYTHON)" -m venv --clear .venv; } || \
	{ echo "$(PYTHON) cannot create .venv: install its venv module (Debian and Ubuntu: apt install python3-venv)" >&2; exit 2; }
	@echo "Installing into .venv (about 2 minutes and 2.3 GB, once)"
	.venv/bin/python -m pip install -c constraints.txt -e '.[dev]'
	@if [ -d .git ]; then \
	git config --local --get-all include.path | grep -qx ../.gitconfig || git config --local --add include.path ../.gitconfig; \
	[ -e .git/hooks/post-merge ] || { mkdir -p .git/hooks && cp .githooks/post-merge .git/hooks/; }; fi
	@touch $@

# Others than .venv, for tests/test_others.py: another Python, or the oldest versions that are allowed.
TESTS := pytest pytest-xdist hypothesis ipykernel pyyaml

.venv-oldest:
	"$(PYTHON)" -m venv --clear $@ && $@/bin/python -m pip install -c constraints-oldest.txt -e . $(TESTS) && touch $@/.installed

.venv-3.%:
	python3.$* -m venv --clear $@ && $@/bin/python -m pip install -c constraints.txt -e . $(TESTS) && touch $@/.installed

test-oldest: .venv-oldest # the core with the oldest versions that are allowed
	OMP_NUM_THREADS=1 $(READY:.installed=bin/python) -m pytest -m slow tests/test_others.py -k oldest

lab: $(READY) ## open the notebooks in JupyterLab
	nbdev_trust
	jupyter lab --ContentsManager.pre_save_hook=grok_nb.docs.site.clean_before_saving $(ARGS) nbs/index.ipynb

docs: $(READY) ## build the site into _docs, offline
	python -m grok_nb.docs.site docs

readme: $(READY) ## write README.md from nbs/index.ipynb
	python -m grok_nb.docs.site readme

export: $(READY) ## write the package grok_nb from the notebooks
	nbdev_export

notebooks: $(READY) ## run notebooks in place and clean them: NB=nbs/core/00_init.ipynb
	python -m grok_nb.docs.site execute $(NB)

clean: ## remove .venv, the site and caches; runs are kept
	rm -rf .venv _docs _proc build dist *.egg-info .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
