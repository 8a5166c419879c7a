# Needs Python 3.11 or newer (with venv), gcc and make; everything else is installed into .venv.
#
#   make demo    a trained Vision Transformer in integer arithmetic: reference, C, accelerator
#   make test    format, lint, types, and all tests
#
# PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DIGITS := examples/digits
OUT := build/digits
FOLDERS := dialects passes frontends backends tools
LINKS := $(FOLDERS:%=.typing/vit_opt/%)

.PHONY: demo test lint types lit pytest format clean

demo: $(VENV)/.installed
	@mkdir -p $(OUT)
	$(BIN)/vit-opt $(DIGITS)/model.onnx -p pot-fold,tile --calib $(DIGITS)/calib.npz -o $(OUT)/model.mlir
	$(BIN)/vit-compile $(DIGITS)/model.onnx -o $(OUT)/compiled --target all --calib $(DIGITS)/calib.npz
	$(BIN)/vit-bench digits $(DIGITS) --compiled $(OUT)/compiled

test: lint types lit pytest

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test $(LINKS)
	$(BIN)/basedpyright

lit: $(VENV)/.installed-test
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/lit -q -j2 test/filecheck

pytest: $(VENV)/.installed-test
	$(BIN)/pytest -q -n 2

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist .typing *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'vit-opt needs Python 3.11 or newer: make PYTHON=...'; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.installed

.typing/vit_opt/%:
	@mkdir -p $(@D)
	@ln -sfn ../../$* $@
