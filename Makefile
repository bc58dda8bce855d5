# The README's two commands, and the developers' ones. On Debian and Ubuntu they install the peers they need.
PYTHON ?= python3

.PHONY: demo test lint bench bench-check figures dynamic peers model locust

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -e '.[bench,dev]'
	touch $@

# The exact releases that the images install: after a change of the dependencies, and to take newer ones.
COMPILE = .venv/lock/bin/uv pip compile -q --universal --python-version 3.11 --no-annotate \
	--custom-compile-command "make lock" --upgrade pyproject.toml --extra regex
.PHONY: lock
lock:
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/pip install -q uv
	$(COMPILE) --generate-hashes -o deploy/requirements.lock
	$(COMPILE) --extra load -c deploy/requirements.lock -o deploy/requirements-load.lock

demo: .venv/ready
	.venv/bin/python -m pylb demo

test:
	tests/setup && .venv/bin/python -m pytest -n 2

# The tables of keys in the documentation, after a change of the configuration's model.
.PHONY: docs
docs: .venv/ready
	.venv/bin/python -m pylb.config.document README.md docs/configuration.md

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/mypy pylb controller bench tests
	.venv/bin/lint-imports

# Every module with its floor and size.
.PHONY: modules
modules: .venv/ready
	.venv/bin/python -m tests.deploy.modules

# Debian's programs that the benchmarks measure against or with.
.PHONY: peers-installed
peers-installed:
	@for tool in haproxy nginx wrk h2load; do command -v $$tool >/dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then apt-get update -qq && apt-get install -y -qq haproxy nginx-light wrk nghttp2-client; fi

# pylb, HAProxy and nginx on every workload: CPU per request, requests per second, p99. Debian's optimised Python
# counts, so PYTHON=/usr/bin/python3 on a machine with pyenv.
bench: .venv/ready peers-installed
	.venv/bin/python -m bench.table

# What is slower than in the last results, by the same run's ratios.
bench-check: .venv/ready peers-installed
	.venv/bin/python -m bench.table --check

# The paper's experiments (needs root, for cgroups); about two hours.
figures: .venv/ready peers-installed
	.venv/bin/python -m bench.testbed
	.venv/bin/python -m bench.figures

# Load that rises and falls, a neighbour that wakes up (needs root).
dynamic: .venv/ready peers-installed
	.venv/bin/python -m bench.dynamic

# HAProxy, nginx, Envoy, Caddy and Python's proxies in one run.
peers: .venv/ready peers-installed
	.venv/bin/python -m bench.peers

# The policy on traces of load, and fleets, simulated.
model: .venv/ready
	.venv/bin/python -m bench.model

# How much Locust itself can make here.
locust: .venv/ready peers-installed
	.venv/bin/python -m bench.locust_ceiling

# Two real guests under QEMU: a core is lent, taken back, given by preference, and returned (needs root and QEMU).
.PHONY: vm-demo
vm-demo: .venv/ready
	.venv/bin/python -m bench.vm demo
