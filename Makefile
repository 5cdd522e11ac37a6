# `make` on a fresh machine with Python 3.11+, a C compiler and make: makes .venv, builds, tests. A second run does only what
# has become stale. The compiled modules lie beside their sources; the debug build has folders and an environment of its own.

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.PHONY: all venv build test quick simulate nightly lint format demo crash bench debug mutants annotate docs dist dist-check clean distclean help FORCE

BIN := .venv/bin
PIP := -m pip install --quiet --disable-pip-version-check --no-compile

PYX := $(shell find multiraft -name '*.pyx')
PXD := $(shell find multiraft -name '*.pxd')
SO := $(shell find multiraft -name '*.so')
# A source without its module, or a module without its source, makes `make build` run, whatever the stamp says.
UNBUILT := $(foreach pyx,$(PYX),$(if $(wildcard $(pyx:.pyx=.*.so)),,FORCE))
ORPHANS := $(foreach so,$(SO),$(if $(wildcard $(firstword $(subst ., ,$(so))).pyx),,FORCE))

all: test

help:
	@echo "make            build and test"
	@echo "make build      compile what has changed, in place"
	@echo "make test       all tests, benchmarks once each and untimed"
	@echo "make quick      the tests that take less than a quarter of a second"
	@echo "make simulate   simulated clusters from SEEDS seeds (ARGS=... for more: --help); make nightly for ten thousand long ones"
	@echo "make crash      the long form of the crash tests: every write, many more images (an hour or two; root, strace)"
	@echo "make lint       ruff, mypy, tidy rules"
	@echo "make format     put every file into the house format"
	@echo "make demo       a cluster of three nodes on this machine, for a look"
	@echo "make bench      time the benchmarks"
	@echo "make debug      build and test with bounds, invariants and leaks checked"
	@echo "make mutants    make the tree with all mutants in it, and run each with the seed that finds it"
	@echo "make annotate   Cython's coloured HTML, under build/cython"
	@echo "make docs       write the generated parts of docs/"
	@echo "make dist       sdist and wheel, under dist/; make dist-check installs and tests them in fresh environments"
	@echo "make clean      remove what was built; make distclean also the environments"

# -- environments -------------------------------------------------------------------------------------------------------

# An environment that no longer runs (its Python went, the folder moved) is made anew; else only what it lacks is installed.
define make-venv
	@$(1)/bin/python -c '' 2>/dev/null || { \
	    python=$$(sh tools/find_python) && echo "making $(1) with $$python" && "$$python" -m venv --clear $(1); }
	@$(1)/bin/python tools/requirements.py test > $(1)/requirements.txt
	@$(1)/bin/python $(PIP) -r $(1)/requirements.txt
endef

venv: .venv/.ready

.venv/.ready: pyproject.toml tools/requirements.py
	$(call make-venv,.venv)
	@MULTIRAFT_NO_EXTENSIONS=1 $(BIN)/python $(PIP) --no-build-isolation --no-deps --editable .
	@touch $@

.venv-debug/.ready: pyproject.toml tools/requirements.py
	$(call make-venv,.venv-debug)
	@echo "$(CURDIR)/build/debug" > "$$(.venv-debug/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/multiraft-debug.pth"
	@touch $@

# -- build and test -----------------------------------------------------------------------------------------------------

build: build/.compiled

build/.compiled: .venv/.ready setup.py $(PYX) $(PXD) $(UNBUILT) $(ORPHANS)
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@mkdir -p build && touch $@

FORCE:

test: build
	$(BIN)/python -m pytest

quick: build
	$(BIN)/python -m pytest -m "not slow and not cluster"

SEEDS ?= 300

simulate: build
	$(BIN)/python -m multiraft.testing run --seeds $(SEEDS) $(ARGS)

nightly: build
	$(BIN)/python -m multiraft.testing run --seeds 10000 --first $$(date -u +%Y%m%d)00000 --seconds 120 --profile swarm --twice 0.01 $(ARGS)

lint: .venv/.ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m tools.tidy

format: .venv/.ready
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

crash: build
	MULTIRAFT_CRASH=long $(BIN)/python -m pytest tests/crash -s -o timeout=0 -o faulthandler_timeout=0

demo: build
	$(BIN)/multiraft demo

bench: build
	$(BIN)/python -m pytest benchmarks -o faulthandler_timeout=600 --benchmark-enable --benchmark-only --benchmark-autosave

# Copies are made anew, so that none outlives its source.
debug: .venv-debug/.ready
	@mkdir -p build/debug && find build/debug -name '*.py*' -delete
	@MULTIRAFT_DEBUG=1 .venv-debug/bin/python setup.py --quiet build --build-lib build/debug --build-temp build/debug-objects
	.venv-debug/bin/python -m pytest -o pythonpath="build/debug ." $(ARGS)

mutants: build
	$(BIN)/python -m multiraft.testing mutants --ci 0

annotate: .venv/.ready
	@MULTIRAFT_ANNOTATE=1 $(BIN)/python setup.py --quiet build_ext --inplace --force
	@find build/cython -name '*.html'

docs: .venv/.ready
	$(BIN)/python -m tools.pitfall_table --write

# -- packages -----------------------------------------------------------------------------------------------------------

.venv/.release: .venv/.ready
	@$(BIN)/python tools/requirements.py release > .venv/requirements-release.txt
	@$(BIN)/python $(PIP) -r .venv/requirements-release.txt
	@touch $@

dist: .venv/.release
	@rm -rf dist
	$(BIN)/python -m build --outdir dist

dist-check: dist
	$(BIN)/python -m tools.dist_check dist

# -- clean --------------------------------------------------------------------------------------------------------------

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find multiraft -name '*.so' -delete
	find multiraft tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-debug
