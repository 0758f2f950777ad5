# The README's two commands are `make demo` and `make test`. Everything they need, they install: Python packages into
# .venv, Debian packages where we are root (and otherwise they say which are missing).
.PHONY: demo test test-quick check bench bench-peers faults install clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

demo: $(READY) .nft
	$(BIN)/reconcile demo

# In a locale without UTF-8, Python has to be told.
test: $(READY) .system-packages .vm .ips
	PYTHONUTF8=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

# Two minutes, while one works: no real VM, fewer seeds and generated files, nothing that is marked `long`.
test-quick: $(READY) .system-packages
	PYTHONUTF8=1 $(BIN)/python -m pytest --quick $(PYTEST_ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/reconcile schema | diff schemas/appliance.schema.json - || \
	  { echo 'schemas/appliance.schema.json is stale: reconcile schema > schemas/appliance.schema.json'; exit 1; }
	$(BIN)/reconcile validate topologies examples

bench: $(READY) .system-packages
	$(BIN)/python -m bench
	$(BIN)/python -m bench.daemon

# Measures those peers that are installed, and names the packages of the others. It installs none: ifupdown2 would
# take the place of ifupdown, and Open vSwitch start daemons.
bench-peers: $(READY) .system-packages
	$(BIN)/python -m bench.side_by_side

# What happens to the wire when something breaks: docs/faults.md. `make faults FAULTS='--only prober --runs 3'` takes less.
faults: $(READY) .system-packages .vm .ips
	$(BIN)/python -m bench.faults $(FAULTS)

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(MAKE) --no-print-directory .venv-package
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,demo]'
	@touch $@

# What the tests use beside Python: ip, bridge and nft to tamper with and to compare against, setpriv and nsenter.
.PHONY: .system-packages .venv-package
.system-packages:
	@.ci/system-packages ip:iproute2 setpriv:util-linux sysctl:procps systemd-analyze:systemd nft:nftables

# libnftables, which comes with nft, for the guard of the demo. Where it cannot be had (no root), this says so.
.PHONY: .nft
.nft:
	-@.ci/system-packages nft:nftables

# A real IPS for examples/suricata: Debian 12 has it in backports only. As with the VM: without root its tests skip.
.PHONY: .ips
.ips:
	-@.ci/backports suricata:suricata

# A real VM for tests/vm, and libvirt's Python binding, which is built here. Where this cannot be had (no root), those
# tests say so and skip; in CI they fail.
.PHONY: .vm
.vm: $(READY)
	-@.ci/system-packages qemu-system-x86_64:qemu-system-x86 libvirtd:libvirt-daemon \
	  virt-qemu-run:libvirt-daemon-driver-qemu virsh:libvirt-clients \
	  gcc:gcc pkg-config:pkg-config python3-config:python3-dev /usr/include/libvirt/libvirt.h:libvirt-dev
	-@$(BIN)/python -c 'import libvirt' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[libvirt]'

.venv-package:
	@.ci/system-packages --always python3-venv

clean:
	rm -rf $(VENV) .cache .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
