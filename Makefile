# The project's commands. 'make help' lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help env lock demo test lint up down bench faults explore soak

UV_VERSION := 0.13.9
UV := .venv/bin/uv
HEADFRAME := .venv/bin/headframe

# An environment's stamp is named after its lock's digest, so an unchanged lock costs nothing.
digest = $(shell sha256sum $(1) | cut -c1-16)
STAMP := .venv/lock-$(call digest,requirements.lock)
TRITON_STAMP := .venv-triton/lock-$(call digest,triton_models/requirements.lock)

# Triton's Python backend loads libpython, so an interpreter without a shared one is of no use.
define FITTING
import os, sys, sysconfig, ensurepip, venv
v = sysconfig.get_config_var
ok = (3, 11) <= sys.version_info[:2] < (3, 13)
ok = ok and os.path.exists(os.path.join(v("LIBDIR") or "", v("INSTSONAME") or "none"))
ok = ok and ".so" in (v("INSTSONAME") or "")
sys.exit(not ok)
endef
export FITTING
FIND_PYTHON = for p in $(PYTHON) python3.11 python3.12 python3; do \
	"$$p" -c "$$FITTING" 2>/dev/null && { echo "$$p"; exit 0; }; done; \
	echo "no Python 3.11 or 3.12 with a shared libpython (and venv) was found: install one, or name it: make env PYTHON=/path/to/python" >&2; exit 1

help:  ## list the commands
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

env: $(STAMP) $(TRITON_STAMP)  ## install the two environments, .venv and .venv-triton, from their locks

$(UV):
	@python="$$($(FIND_PYTHON))" && "$$python" -m venv .venv
	@.venv/bin/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)

$(STAMP): requirements.lock | $(UV)
	@rm -f .venv/lock-*
	$(UV) pip install -q --python .venv/bin/python --require-hashes -r requirements.lock
	$(UV) pip install -q --python .venv/bin/python --no-deps --no-build-isolation -e .
	@touch $@

$(TRITON_STAMP): triton_models/requirements.lock | $(UV)
	@rm -f .venv-triton/lock-*
	@test -x .venv-triton/bin/python || .venv/bin/python -m venv --without-pip .venv-triton
	$(UV) pip install -q --python .venv-triton/bin/python --no-deps --require-hashes -r triton_models/requirements.lock
	@touch $@

COMPILE := $(UV) pip compile -q --python 3.11 --generate-hashes --no-header --no-annotate
COMPOSE := infra/deploy/compose

lock: $(UV)  ## write the lock files anew after a change of the dependencies
	$(COMPILE) --universal --extra stack --extra redis --extra sample-data --extra notebooks --extra dev pyproject.toml -o requirements.lock
	$(COMPILE) --universal --no-deps triton_models/requirements.in -o triton_models/requirements.lock
	@grep -oE '^[A-Za-z0-9._-]+==[^ ]+' requirements.lock > .venv/pins
	$(COMPILE) -c .venv/pins pyproject.toml $(COMPOSE)/requirements.in -o $(COMPOSE)/requirements.lock

demo: env  ## run the whole loop once on real packaged data, in var/demo
	@HEADFRAME_HOME=var/demo $(HEADFRAME) demo

test: env  ## run every test, two at a time
	.venv/bin/pytest -q -n 2 --dist loadfile

lint: env  ## style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

up: env  ## start the embedded stack
	@$(HEADFRAME) up

down:  ## stop it
	@test ! -x $(HEADFRAME) || $(HEADFRAME) down

bench: env  ## measure each figure against its rival
	.venv/bin/python -m bench

faults: env  ## the hostile inputs and faults of serving, each a test
	.venv/bin/pytest -q -n 2 --dist loadfile tests/faults

explore: env  ## search for cases that break a property, where make test tries the same ones each time
	.venv/bin/pytest -q -n 2 -m hypothesis --hypothesis-profile=explore

soak: env  ## 20 minutes (SOAK_MINUTES) of twin traffic with a route flip every 20 s, in var/soak
	@HEADFRAME_HOME=var/soak .venv/bin/python -m bench.soak --minutes $(or $(SOAK_MINUTES),20)
