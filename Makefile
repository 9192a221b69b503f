# make demo: talk to a real model.  make test: test everything.  Both work again without a network once they have run.
# PYTHON=... picks the interpreter (3.11 to 3.13), VENV=... the environment, PORT=... where the demo listens.

VENV ?= .venv
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN := $(VENV)/bin
JOBS ?= 2
CXX_FILES := $(wildcard soberano/*/*.cc soberano/*/*.h tests/*/*.cc)
PORT ?= 8080
NO_PIP := echo "pip could not install (its reason is above): setting up needs the package index once; with a mirror, set PIP_INDEX_URL, and run make again"; exit 1

.PHONY: help setup demo test check fix docs evidence bench clean

help:
	@sed -n '1,2s/^# //p' Makefile

# The environment. A stamp remembers what is installed, so pip is not called, and no network is needed, until pyproject.toml changes.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 found; install one, or say which: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/.base: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV): a minute or two, once"
	@$(BIN)/python -m pip install --quiet --editable . || { $(NO_PIP); }
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV): a minute or two, once"
	@$(BIN)/python -m pip install --quiet --editable '.[test]' || { $(NO_PIP); }
	@touch $(VENV)/.base $@

setup: $(VENV)/.test

demo: $(VENV)/.base
	$(BIN)/soberano pull smollm2
	@echo "soberano is in $(BIN); to type it alone: . $(BIN)/activate"
	$(BIN)/soberano serve smollm2 --demo --port $(PORT)

test: setup
	@$(BIN)/soberano pull smollm2 || echo "no demo model: the tests that need it will skip"
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py tests/test_import.py tests/test_docs.py

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

docs: setup
	$(BIN)/python scripts/docs.py

bench: $(VENV)/.base
	$(BIN)/soberano bench ops
	$(BIN)/soberano pull smollm2
	$(BIN)/soberano bench llm smollm2

# Long proofs that anyone can run again: make evidence TOPIC=name
TOPICS := $(sort $(basename $(notdir $(wildcard scripts/evidence/*.py scripts/evidence/*.sh))))
evidence: $(if $(TOPIC),setup)
ifeq ($(TOPIC),)
	@echo "make evidence TOPIC=..., one of: $(TOPICS)"
else ifneq ($(wildcard scripts/evidence/$(TOPIC).py),)
	$(BIN)/python scripts/evidence/$(TOPIC).py
else ifneq ($(wildcard scripts/evidence/$(TOPIC).sh),)
	PATH="$(abspath $(BIN)):$$PATH" sh scripts/evidence/$(TOPIC).sh
else
	@echo "no topic is called $(TOPIC); there are: $(TOPICS)"; exit 1
endif

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
