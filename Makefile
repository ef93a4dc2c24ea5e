# make demo needs nothing but Python 3.10+ and make: it makes an environment in .venv.
#
#   make demo PYTHON=python3.12             another Python
#   make demo TORCH=torch==2.11.0           another release of torch; options of pip may follow
#
# On Linux pip may take a build for CUDA of several GB. For the CPU build name PyTorch's own index in
# the environment variable PIP_EXTRA_INDEX_URL.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=
BENCH_ARGS ?=

python := $(VENV)/bin/python
# Stamps say what is installed. The one of torch carries its setting in its name.
torch := $(VENV)/.torch-$(firstword $(shell printf '%s' '$(TORCH)' | cksum))
package := $(VENV)/.package
test := $(VENV)/.package-test
dev := $(VENV)/.package-dev
report := $(VENV)/.package-report

.PHONY: help demo test lint bench clean

help:
	@echo 'make demo   install into $(VENV), train with and without MRdIB on planted data'
	@echo 'make test   install into $(VENV), run the tests (PYTEST_ARGS=... are passed on)'
	@echo 'make lint   install into $(VENV), run ruff and mypy, compare tables with results'
	@echo 'make bench  install into $(VENV), run the short form of the benchmarks (BENCH_ARGS=...)'
	@echo 'make clean  remove $(VENV) and the caches of the tools'

demo: $(package)
	$(VENV)/bin/mrdib demo

test: $(test)
	$(python) -m pytest $(PYTEST_ARGS)

lint: $(dev)
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	$(python) -m benchmarks.tables --check
	$(python) -m benchmarks.quality.results --check

bench: $(report)
	OMP_NUM_THREADS=1 $(python) -m benchmarks.run --short $(BENCH_ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# torch comes first and by itself: the package takes whichever release it finds.
$(torch):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo '$(PYTHON) is older than Python 3.10: name another by PYTHON=...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(python) -m pip install $(TORCH)
	@rm -f $(VENV)/.torch-*
	@touch $@

$(package): $(torch) setup.py
	$(python) -m pip install --editable .
	@touch $@

$(test): $(torch) setup.py
	$(python) -m pip install --editable '.[test]'
	@touch $@ $(package)

$(report): $(torch) setup.py
	$(python) -m pip install --editable '.[report]' 'pydantic>=2.9'
	@touch $@ $(package)

$(dev): $(torch) setup.py
	$(python) -m pip install --editable '.[dev]'
	@touch $@ $(test) $(package)
