# The README's two commands and the developers' ones. PYTHON is what .venv is made with.
PYTHON ?= python3

.PHONY: demo test lint bench

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -e '.[bench,dev]'
	touch $@

demo: .venv/ready
	.venv/bin/python -m pylb demo

test: .venv/ready
	.venv/bin/python -m pytest

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/mypy pylb controller bench tests

# Debian: installs the peers that it measures against.
bench: .venv/ready
	@for tool in haproxy nginx wrk; do command -v $$tool >/dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then apt-get update -qq && apt-get install -y -qq haproxy nginx-light wrk; fi
	.venv/bin/python -m bench.hotpath
