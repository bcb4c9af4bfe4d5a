# Every target is idempotent and makes its own .venv first.
.PHONY: setup demo test lint models offline-table bench clean

setup:
	@scripts/setup.sh

demo: setup
	.venv/bin/bora demo

test: setup
	.venv/bin/python -m pytest

lint: setup
	.venv/bin/ruff check .

models: setup
	.venv/bin/python -m bora_rollout.models

offline-table: setup
	.venv/bin/python -m bora_rollout.offline_table

bench: setup
	.venv/bin/python benchmarks/bench.py

clean:
	rm -rf .venv build install log
