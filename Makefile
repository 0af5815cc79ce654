# The entries to the house. Everything runs from .venv, which `make setup` makes and keeps up to date.
BIN  := .venv/bin
PY    = $(shell deploy/dev/find_python.sh)
SUDO := $(shell [ "$$(id -u)" = 0 ] || ! command -v sudo >/dev/null || echo sudo --preserve-env=CI,TERM,COLUMNS,KILIM_LAB)
.DEFAULT_GOAL := help
# bash counts SECONDS itself; make takes it from its own command line alone.
FUZZ_SECONDS = $(if $(filter command,$(firstword $(origin SECONDS))),$(SECONDS),60)
.PHONY: help setup preflight demo lab lab-down test policy-cases faults-nightly check fuzz instructions bench performance bpf proto format clean

help:            ## this list
	@awk -F ':.*## *' '/^[a-z-]+:.*##/ {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:           ## system packages, virtual environment, BPF objects; only what is missing
	@deploy/dev/setup.sh

preflight:
	@$(SUDO) $(or $(PY),$(error Python 3.11 or newer is missing)) deploy/dev/preflight.py

demo: preflight setup    ## the main job, shown: a cluster on this machine, policies, traffic, kill -9
	@$(SUDO) $(BIN)/kilim lab demo

lab: preflight setup     ## a cluster to play with; `make lab-down` removes it
	@$(SUDO) $(BIN)/kilim lab up

lab-down: setup  ## remove the cluster of `make lab` and every trace of it
	@$(SUDO) $(BIN)/kilim lab down

test: preflight setup    ## all suites, by tox
	@$(SUDO) $(BIN)/tox

policy-cases: preflight setup    ## all policy cases and truth tables; PART=cases|cases-ipv6|picked|picked-ipv6|truth|truth-ipv6|truth-packets|truth-packets-ipv6
	@$(SUDO) $(BIN)/python -m tests.policy_cases $(PART)

faults-nightly: preflight setup  ## hours of faults: SEEDS=1,2,3 (default: ten of the day), ROUNDS=60 of each
	@$(SUDO) env KILIM_FAULT_SEEDS=$(or $(SEEDS),$(shell date +%y%m%d | sed 's/.*/&0,&1,&2,&3,&4,&5,&6,&7,&8,&9/')) \
		KILIM_FAULT_ROUNDS=$(or $(ROUNDS),60) KILIM_CHURN_SECONDS=$(or $(KILIM_CHURN_SECONDS),30) \
		KILIM_RESTARTS=$(or $(KILIM_RESTARTS),120) $(BIN)/tox -e faults

check: setup     ## lint, format, types, import contracts, generated code, shape of the house
	@deploy/dev/check.sh

fuzz: preflight setup    ## random packets through the datapath and its model; SECONDS=60 EXECUTIONS=… SEED=… MASQUERADE=1
	@$(SUDO) $(BIN)/python -m tests.datapath.fuzz $(if $(EXECUTIONS),--executions $(EXECUTIONS),--seconds $(FUZZ_SECONDS)) \
		$(if $(SEED),--seed $(SEED)) $(if $(MASQUERADE),--masquerade)

instructions: preflight setup    ## record what the verifier makes of each program (tests/kernel/instructions.json)
	@$(SUDO) $(BIN)/python -m tests.kernel.instructions

bench: preflight setup   ## measurements side by side with rivals; NAME=datapath|append|rebuild|… for one
	@$(SUDO) $(BIN)/python -m tests.bench $(NAME)

performance: preflight setup     ## the datapath's measurements (20 minutes, a quiet machine) into docs/performance.md
	@$(SUDO) $(BIN)/python -m tests.bench.document --measure

bpf:             ## compile the BPF objects
	@$(MAKE) --no-print-directory -C bpf

proto: setup     ## regenerate the committed stubs after a change of a .proto
	@deploy/dev/generate_proto.sh

format: setup    ## format Python and C in place
	@deploy/dev/check.sh --fix

clean:           ## remove what setup, tests and builds made (not the system packages)
	@$(MAKE) --no-print-directory -C bpf clean
	@$(SUDO) rm -rf .venv .tox build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@$(SUDO) find . -name __pycache__ -type d -prune -exec rm -rf {} +
