# make demo    the whole method on real pretrained parts, on a laptop: report in playground/out/report.html
# make demo-instructblip   InstructBLIP with a new Q-Former on the same parts and domains
# make test    everything CI runs: format, lint, types, all tests
# make check   format, lint, types and the fast tests; before each commit
# make bench   the benchmarks, about 10 minutes on 2 idle cores; prints ratios
# make check-vllm   bundles served by a real vLLM on the CPU, answer for answer; it makes a venv of its own (3.4 GB)
# make check-llamacpp   GGUF bundles served by a real llama.cpp, answer for answer; it builds llama.cpp first (10 minutes)
# make check-lmms-eval   served models scored by a real lmms-eval, answer for answer; a venv of its own (0.2 GB)
# make test-packages   what tests start of Debian's packages (as root): SLURM, network tools, Chromium; they skip without
# Each target sets up .venv first. PYTHON=... chooses the interpreter, TORCH=cuda|cpu the build of PyTorch.

VENV := .venv/bin
# Test workers; each runs on one thread.
WORKERS ?= 2
# What the multi-node tests run on.
CLUSTER_PACKAGES := slurmctld slurmd slurm-client munge iproute2 openssh-server pdsh
BROWSER_PACKAGES := chromium fonts-dejavu-core

.PHONY: help setup demo demo-instructblip test check lint types bench encoder test-packages clean \
	check-vllm check-llamacpp check-lmms-eval

help:
	@sed -n '1,/^$$/s/^# //p' Makefile

setup:
	@bash scripts/setup_venv.sh

demo: setup
	$(VENV)/python -m playground.demo

demo-instructblip: setup
	$(VENV)/python -m playground.demo_instructblip

# The sentence encoder the clustering tests run on: a 90 MB part, fetched once.
encoder: setup
	$(VENV)/python -m playground.fetch_assets --only encoder

lint: setup
	$(VENV)/ruff format --check .
	$(VENV)/ruff check .

types: setup
	$(VENV)/mypy

check: lint types encoder
	$(VENV)/pytest -n $(WORKERS) -m "not slow and not slurm"

test: lint types encoder
	$(VENV)/pytest -n $(WORKERS) --durations=10

# One lot after the other: where one cannot be had, the other is installed all the same.
test-packages:
	@dpkg -s $(CLUSTER_PACKAGES) $(BROWSER_PACKAGES) >/dev/null 2>&1 && exit 0; \
	export DEBIAN_FRONTEND=noninteractive; apt-get update -qq || exit 1; failed=0; \
	apt-get install -y -qq --no-install-recommends $(CLUSTER_PACKAGES) || failed=1; \
	apt-get install -y -qq --no-install-recommends $(BROWSER_PACKAGES) || failed=1; exit $$failed

check-vllm: setup
	@bash scripts/check_vllm.sh

check-llamacpp: setup
	@bash scripts/check_llamacpp.sh

check-lmms-eval: setup
	@bash scripts/check_lmms_eval.sh

bench: setup
	$(VENV)/python -m playground.prepare
	@for name in layer step scaling decode cluster length_balance loop; do \
		echo; echo "== $$name"; OMP_NUM_THREADS=1 $(VENV)/python -m benchmarks.$$name || exit 1; done

clean:
	rm -rf playground/assets playground/base playground/data playground/runs playground/clusters playground/out \
		playground/instructblip_base playground/instructblip_clusters
