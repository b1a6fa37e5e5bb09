# The commands a person runs. Each one first brings .venv up to date, which costs nothing when it is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UP_TO_DATE := $(VENV)/.up-to-date

.PHONY: install demo test test-all check format lint types imports bench bench-recorder bench-online quality \
	results results-data

install: $(UP_TO_DATE)

# torch comes first and alone, so that whichever build of it pip is set up to prefer is the one that stays.
$(UP_TO_DATE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "offrl needs Python 3.11 or newer: make install PYTHON=python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mujoco,arrow,figures,dev]'
	@touch $@

demo: install
	$(BIN)/offrl demo

test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: install
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not network"

check: format lint types imports test

format: install
	$(BIN)/ruff format --check .

lint: install
	$(BIN)/ruff check .

types: install
	$(BIN)/pyright

imports: install
	$(BIN)/lint-imports --no-cache

# The peer pins gymnasium exactly, so it is timed from an environment of its own.
PEER := .venv-d3rlpy
$(PEER)/.up-to-date: benchmarks/d3rlpy-constraints.txt
	@test -x $(PEER)/bin/python || $(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet --constraint $< torch
	$(PEER)/bin/python -m pip install --quiet --constraint $< d3rlpy
	@touch $@

bench: install $(PEER)/.up-to-date
	$(BIN)/python -m benchmarks

# The returns of our policies beside the peer's: some hours; what is in the file is not done again.
QUALITY ?= quality.csv
quality: install $(PEER)/.up-to-date
	$(BIN)/python -m benchmarks.quality offrl/cartpole/medium-v0 --algos dqn,cql --out $(QUALITY)
	$(BIN)/python -m benchmarks.quality offrl/pendulum/mixed-v0 agents/hopper/mixed-v0 \
		agents/halfcheetah/mixed-v0 --algos td3-bc,iql,cql --out $(QUALITY)

# Agents to record with: a folder of ALGO/ENV.zip.
AGENTS ?= ../shared/realdata/rl-trained-agents/zips
SB3 := .venv-sb3
$(SB3)/.up-to-date: benchmarks/sb3-constraints.txt
	@test -x $(SB3)/bin/python || $(PYTHON) -m venv $(SB3)
	$(SB3)/bin/python -m pip install --quiet --constraint $< torch
	$(SB3)/bin/python -m pip install --quiet --constraint $< stable-baselines3 sb3-contrib 'gymnasium[mujoco]'
	@touch $@

bench-recorder: install $(SB3)/.up-to-date
	$(BIN)/python -m benchmarks.recorder --peer $(SB3)/bin/python --agents $(AGENTS)

bench-online: install $(SB3)/.up-to-date
	$(BIN)/python -m benchmarks online

# docs/results.md: some two hours on two cores. The same command goes on with what is not done.
RESULTS ?= sweeps/offline
results: install
	$(BIN)/offrl sweep benchmarks/results/offline.toml --out $(RESULTS) --skip-absent
	$(BIN)/python -m benchmarks.results_page $(RESULTS)/results.parquet

# What that sweep learns from; the last two need the agents.
MIXTURE := --env-steps 100000 --seed 0
results-data: install
	$(BIN)/offrl collect offrl/pendulum/mixed-v0
	$(BIN)/offrl collect offrl/cartpole/medium-v0
	$(BIN)/offrl collect offrl/mountaincar-continuous/medium-v0
	$(BIN)/offrl collect --env Hopper-v5 --policy random --policy sb3:$(AGENTS)/a2c/Hopper-v3.zip,stochastic \
		--policy sb3:$(AGENTS)/ppo/Hopper-v3.zip,stochastic --policy sb3:$(AGENTS)/trpo/Hopper-v3.zip,stochastic \
		$(MIXTURE) --out agents/hopper/mixed-v0
	$(BIN)/offrl collect --env HalfCheetah-v5 --policy random --policy sb3:$(AGENTS)/trpo/HalfCheetah-v3.zip,stochastic \
		--policy sb3:$(AGENTS)/sac/HalfCheetah-v3.zip,stochastic $(MIXTURE) --out agents/halfcheetah/mixed-v0
