# make demo     two namespaces talk; the agent's numbers beside the kernel's     (KERNEL=6.12: the same inside a VM)
# make test     everything: lint, unit tests, VM suite, a real API server        (KERNELS="6.12" ITEM_KERNELS=: less)
# make vm-preempt  the item tests on a preemptible kernel
# make vm-events  drops, errors and failed connections, made on purpose, on all four kernels
# make vm-capabilities  what the agent may do, each taken away, on the kernels that `make test` leaves out
# make vm-arm64  the arm64 image on Debian's arm64 6.12: what it can attach, the demo, the tests of items
# make test-kube  against a real API server and etcd, which are built once, in minutes
# make test-telemetry  the judges of what the agent exports: Prometheus, promtool, an OpenTelemetry Collector
# make test-cluster  the chart in a real cluster, whose node is a guest               (CLUSTER_KERNELS="5.10 6.1": others)
# make soak     load, many namespaces, little memory, kills, many pods and flows
# make bench    instructions per event, against integration/bench/baseline.json
# make unit     the unit tests alone, in seconds
# make lint     ruff, mypy, import-linter, clang-format
# make build    the wheel, in dist/                                              (ARCH=aarch64: for arm64)
# make image    the image for amd64 and arm64, in dist/, and its tests
# make sbom     what is in them, by Syft, which is built once, in minutes
# make dashboards  the chart's Grafana dashboards, from helm/dashboards
# make docs     the tables of docs/metrics.md and docs/policies.md, from the code
#
# Each installs what it needs and misses: Debian packages (as root), a virtual environment in .venv, and kernels for
# the VMs in ~/.cache/dolphin-agent.

PYTHON  ?= python3
KERNELS ?= 6.12
PATHS_KERNELS ?= 6.12
ITEM_KERNELS ?= 5.10 6.1 7.2
EVENT_KERNELS ?= 5.10 6.1 6.12 7.2
EVENT_TESTS := $(wildcard integration/test_*_drop.py integration/test_*_error.py integration/test_*_fail.py)
ITEM_TESTS := $(filter-out $(EVENT_TESTS), \
	$(wildcard integration/test_ip_*.py integration/test_tcp_*.py integration/test_udp_*.py))
ARM64_TESTS ?= $(ITEM_TESTS)
SOAK_TESTS := integration/test_load.py \
	$(addprefix integration/test_faults.py::, test_memory_limit_is_named test_sigkill_between_flips_leaves_nothing \
	test_namespaces_that_come_and_go_disturb_nobody test_pods_beyond_the_slots_are_named)
CLUSTER_KERNELS ?= 6.12
BENCH_KERNELS ?= 5.10 6.1 6.12 7.2
KERNEL  ?=

BIN := .venv/bin

BUILD_PACKAGES := clang llvm libbpf-dev libbpf1 python3-venv
LINT_PACKAGES  := bpftool
VM_PACKAGES    := busybox-static debian-archive-keyring kmod qemu-system-x86 xz-utils zstd
NET_PACKAGES   := ethtool iperf3 iproute2 iputils-ping nftables util-linux
KUBE_PACKAGES  := openssl
TELEMETRY_PACKAGES := prometheus
IMAGE_PACKAGES := buildah debootstrap runc
PACKAGES       := $(BUILD_PACKAGES) $(LINT_PACKAGES) $(VM_PACKAGES) $(NET_PACKAGES) $(KUBE_PACKAGES) $(TELEMETRY_PACKAGES)

# Guests are busy, and the tests of servers mostly wait: side by side they take half the time.
test: lint unit harness
	$(MAKE) --jobs=2 vm servers

servers: .venv/installed
	$(MAKE) test-kube
	$(MAKE) test-telemetry

demo: .venv/installed
	$(if $(KERNEL),$(BIN)/python -m integration.vm run --kernel $(KERNEL) --) $(BIN)/python -m integration.demo

unit: .venv/installed
	$(BIN)/python -m pytest

# The VM harness itself: what a guest that crashes, hangs or is missing turns into; how costs are compared. Runs on
# this machine.
harness: .venv/installed
	$(BIN)/python -m pytest integration/vm integration/bench

# Everything on one kernel (unusual paths take as long as all the rest), but what fails on purpose, which has a command of
# its own; on the other kernels the tests of the items, which are what differs between kernels.
# KERNELS="5.10 6.1 6.12 7.2" PATHS_KERNELS="5.10 6.1 6.12 7.2" ITEM_KERNELS= runs everything on all.
vm: .venv/installed
	$(BIN)/python -m integration.vm pytest --kernels "$(KERNELS)" -- --ignore=integration/test_paths.py \
		$(EVENT_TESTS:%=--ignore=%) $(SOAK_TESTS:%=--deselect=%)
	$(BIN)/python -m integration.vm pytest --kernels "$(PATHS_KERNELS)" -- integration/test_paths.py
	$(if $(ITEM_KERNELS),$(BIN)/python -m integration.vm pytest --kernels "$(ITEM_KERNELS)" -- $(ITEM_TESTS))

# Drops, errors and failed connections, each made on purpose: half an hour.
vm-events: .venv/installed
	$(BIN)/python -m integration.vm pytest --kernels "$(EVENT_KERNELS)" -- $(EVENT_TESTS)

# The arm64 image, on a kernel and a processor of its own; integration/README.md.
vm-arm64: PACKAGES += $(IMAGE_PACKAGES) qemu-system-arm
vm-arm64: .venv/installed
	$(BIN)/python -m integration.image.build arm64
	$(BIN)/python -m integration.image.guest -- dolphin-agent check
	$(BIN)/python -m integration.image.guest -- python3 -m integration.demo
	$(BIN)/python -m integration.image.guest --timeout 5400 -- python3 -m pytest -p no:cacheprovider \
		$(ARM64_TESTS)

# The agent against a real API server, on this machine; integration/kube/README.md.
test-kube: .venv/installed
	$(BIN)/python -m integration.kube.binaries kube-apiserver etcd helm
	$(BIN)/python -m pytest integration/kube

# Real receivers of what the agent exports, on this machine; integration/telemetry/README.md.
test-telemetry: .venv/installed
	$(BIN)/python -m integration.telemetry.binaries
	$(BIN)/python -m pytest integration/telemetry

# From `helm install` to a number in Prometheus, and back to a node with nothing on it; integration/cluster/README.md.
test-cluster: PACKAGES += $(IMAGE_PACKAGES)
test-cluster: .venv/installed image
	$(BIN)/python -m integration.kube.binaries
	$(BIN)/python -m integration.telemetry.binaries
	$(BIN)/python -m integration.cluster $(CLUSTER_KERNELS)

# Load and violent ends, too long for every change; and, on this machine, what 10,000 pods, a million flows and a
# collector that is away for ten minutes leave behind.
soak: .venv/installed
	$(BIN)/python -m integration.vm pytest --kernels "$(KERNELS)" -- $(SOAK_TESTS)
	$(BIN)/python -m integration.telemetry.soak

# The same tests of items where the kernel may be preempted anywhere; 7.2 is built so.
vm-preempt: .venv/installed
	$(BIN)/python -m integration.vm pytest --kernels 6.12 --append preempt=full -- $(ITEM_TESTS)

# Attaching everything takes a minute under emulation, and here it is tried with each capability taken away.
vm-capabilities: .venv/installed
	$(BIN)/python -m integration.vm pytest --kernels "$(ITEM_KERNELS)" -- integration/test_capabilities.py

# What the agent costs, as integration/README.md says; bench-baseline accepts the present figures.
bench: .venv/installed
	$(BIN)/python -m integration.bench --kernels "$(BENCH_KERNELS)"

# What a drain and a scrape cost in Python, beside what others would; a running agent with 20,000 flows; what two pods get
# done with one and without; a flood of drops; one that asks 250 pods every second; on this machine.
bench-userspace: .venv/installed
	$(BIN)/python -m integration.bench.userspace
	$(BIN)/python -m integration.bench.exits
	$(BIN)/python -m integration.bench.agent
	$(BIN)/python -m integration.bench.rates
	$(BIN)/python -m integration.bench.flood
	$(BIN)/python -m integration.bench.health

bench-baseline: .venv/installed
	$(BIN)/python -m integration.bench --kernels "$(BENCH_KERNELS)" --rewrite

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror ebpf/*.bpf.c ebpf/include/*.h integration/bench/*.bpf.c

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i ebpf/*.bpf.c ebpf/include/*.h integration/bench/*.bpf.c

dashboards: .venv/installed
	$(BIN)/python -m helm.dashboards

# The tables of docs/ that say again what the code declares.
docs: .venv/installed
	$(BIN)/python -m docs.reference

objects: | packages
	$(MAKE) -C ebpf

build: .venv/installed
	$(BIN)/pip wheel --no-deps --wheel-dir dist .

# As users build it, from a base that is made of Debian's packages here.
image: PACKAGES += $(IMAGE_PACKAGES)
image: .venv/installed
	$(BIN)/python -m integration.image.build
	$(BIN)/python -m pytest integration/image/test_image.py

sbom: .venv/installed
	$(BIN)/python -m integration.image.sbom
	$(BIN)/python -m pytest integration/image/test_sbom.py

# The table of values in the chart's README.
chart-readme: .venv/installed
	$(BIN)/python -m integration.kube.chart

# The package is installed editable, so only its metadata, the dependencies and the BPF objects can be out of date.
.venv/installed: pyproject.toml $(wildcard ebpf/*.c ebpf/*/*.h ebpf/Makefile ebpf/*.py) | packages
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

# Prometheus is wanted as a program: its service is masked before systemd can start it, now or at the next boot.
packages:
	@missing=$$(for package in $(PACKAGES); do dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null | \
		grep -qx installed || echo $$package; done); \
	test -z "$$missing" || { echo "installing: $$missing"; \
		case " $$missing " in *[[:space:]]prometheus[[:space:]]*) mkdir -p /etc/systemd/system && \
			ln -sfn /dev/null /etc/systemd/system/prometheus.service;; esac; \
		apt-get -q -q update && DEBIAN_FRONTEND=noninteractive \
		apt-get -q -q install --yes --no-install-recommends $$missing; }

clean:
	rm -rf .venv build dist
	$(MAKE) -C ebpf clean

.PHONY: test servers demo unit harness vm vm-events test-kube test-telemetry test-cluster soak vm-preempt vm-capabilities \
	vm-arm64 bench bench-userspace bench-baseline lint format dashboards docs objects build image packages clean chart-readme sbom
