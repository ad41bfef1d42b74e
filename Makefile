# RoboStig: "make help" lists what there is. It needs Python (3.11 where there is a choice), make and git.

DATA ?=
OUT ?= out

# The tests run in .venv and on each other version here that is found. Python 3.8 stands for the SageMaker images.
TEST_PYTHONS ?= 3.11 3.8 3.12
# Three workers of one thread each: for two cores, because servers and other processes are often waited for.
PYTEST_FLAGS ?= -q -n 3 --dist loadfile
# Bytecode is kept, whatever the shell says: hundreds of processes import the package.
TEST_ENV ?= OMP_NUM_THREADS=1 MPLBACKEND=Agg PYTHONDONTWRITEBYTECODE=

PIP_INSTALL := python -m pip install -q --disable-pip-version-check
REQUIREMENTS := setup.py pyproject.toml tests/container-constraints.txt
# What the wheels of OpenCV and MXNet expect of the system (Debian's names).
SYSTEM_LIBRARIES := libgl1 libglib2.0-0 libgomp1 libquadmath0
comma := ,

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.SECONDARY:
.PHONY: help run test lint bench notebooks weights clean

# $(call find_python,VERSION): the first one that runs and can make an environment; on the PATH, then pyenv's.
find_python = $(shell for python in python$(1) "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$(1).*/bin/python; do \
	"$$python" -c 'import ensurepip, sys, venv; sys.exit("%d.%d" % sys.version_info[:2] != "$(1)")' \
	2>/dev/null && echo "$$python" && break; done)

# Python 3.11, or else the python3 at hand if MXNet runs on it.
find_default_python = $(or $(call find_python,3.11),$(shell \
	python3 -c 'import ensurepip, sys, venv; sys.exit(not (3, 8) <= sys.version_info[:2] <= (3, 12))' \
	2>/dev/null && echo python3))

# $(call install,FOLDER,PYTHON,EXTRAS,MORE): an environment that holds the package, editable, with these extras.
define install
	@test -n "$(2)" || { echo "No Python for $(1): RoboStig needs Python 3.8 to 3.12 with venv and pip, preferably" \
		"3.11 (Debian and Ubuntu: apt-get install python3-venv), on the PATH or from pyenv." >&2; exit 1; }
	@echo "Installing RoboStig in $(1) with $$($(2) --version): once, for a minute or two."
	@test -x $(1)/bin/python || $(2) -m venv $(1)
	@$(1)/bin/$(PIP_INSTALL) -e ".[$(3)]" $(4)
	@$(1)/bin/python -c 'import cv2, robostig.backend' || { echo "OpenCV or MXNet lacks the system library that is named" \
		"above. Debian and Ubuntu: apt-get install $(SYSTEM_LIBRARIES); then make again." >&2; exit 1; }
	@touch $@
endef

help: ## list what make can do
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: .venv/.installed ## record a drive, train the models, let them drive, choose one: make run [DATA=DIR] [OUT=out]
	.venv/bin/robostig compare $(if $(DATA),--data "$(DATA)") --out "$(OUT)"

test: .venv/.installed ## run the tests on Python 3.11, 3.8 and 3.12, where found
	$(eval default := $(shell .venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
	$(eval others := $(filter-out $(default),$(TEST_PYTHONS)))
	$(eval found := $(foreach version,$(others),$(if $(call find_python,$(version)),$(version))))
	@$(foreach version,$(found),$(MAKE) .venv-$(version)/.installed &&) true
	@$(foreach version,$(filter-out $(found),$(others)),echo \
		"skipped: Python $(version) not found, neither on the PATH nor in pyenv's versions";)
	@failed=; again=; for venv in .venv $(found:%=.venv-%); do \
		echo; echo "=== $$($$venv/bin/python --version) ($$venv)"; \
		$(TEST_ENV) $$venv/bin/python -m pytest $(PYTEST_FLAGS) $$again || failed="$$failed $$venv"; \
		again=--again; \
	done; test -z "$$failed" || { echo "Tests failed in:$$failed" >&2; exit 1; }

lint: .venv/.installed ## check style, formatting and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

bench: .venv/.installed-bench ## measure against PyTorch and others, and write benchmarks/RESULTS.md [QUICK=1] [ONLY=NAME,...]
	.venv/bin/python -m benchmarks $(if $(QUICK),--quick) $(if $(ONLY),--only "$(ONLY)")

notebooks: .venv/.installed-notebooks ## open the workshop's notebooks in JupyterLab; RUN=1 executes them all instead, in place
	$(if $(RUN),.venv/bin/python notebooks/execute.py,.venv/bin/jupyter lab \
		$(if $(filter 0,$(shell id -u)),--allow-root) notebooks/1_explore.ipynb)

weights: .venv/.installed ## train anew the weights that the package carries: make weights [DATA=DIR]
	.venv/bin/robostig compare --models nvidia --out "$(OUT)/weights"
	$(if $(DATA),.venv/bin/robostig evaluate "$(OUT)/weights/nvidia" --data "$(DATA)" --keep)
	rm -rf robostig/weights/nvidia && mkdir robostig/weights/nvidia
	cp "$(OUT)"/weights/nvidia/*.* robostig/weights/nvidia/

clean: ## remove environments, caches and build leftovers; OUT stays
	rm -rf .venv .venv-* build dist *.egg-info .*_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: $(REQUIREMENTS)
	$(call install,.venv,$(find_default_python),cpu$(comma)dev)

# PyTorch, which is measured against on the CPU: where pip finds the build for CPUs alone (2.13.0+cpu), it takes that.
.venv/.installed-bench: .venv/.installed
	@.venv/bin/$(PIP_INSTALL) -e ".[bench]"
	@touch $@

.venv/.installed-notebooks: .venv/.installed
	@.venv/bin/$(PIP_INSTALL) -e ".[notebooks]"
	@touch $@

# The images' versions, SageMaker's serving toolkit among them.
.venv-3.8/.installed: $(REQUIREMENTS)
	$(call install,.venv-3.8,$(call find_python,3.8),cpu$(comma)test,-r tests/container-constraints.txt)

.venv-%/.installed: $(REQUIREMENTS)
	$(call install,.venv-$*,$(call find_python,$*),cpu$(comma)test)
