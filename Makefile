# Berth. Everything runs as root without a terminal, and needs Go and what scripts/deps.sh installs.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
IMAGE   ?= docker.io/berthdev/berth:dev
N       ?= 100000
LAB_DIR ?= $(CURDIR)/.lab
FUZZTIME ?= 30s
LDFLAGS := -s -w -X main.version=$(VERSION)
BINARIES := berth berth-agent berth-controller kubectl-berth
MANIFESTS := $(sort $(wildcard deploy/manifests/*.yaml))
CRDS := $(addprefix api/v1alpha1/crds/berth.dev_,ippools.yaml ipleases.yaml subnets.yaml ipblocks.yaml netspaces.yaml hostnetworks.yaml hubmembers.yaml)
# What make generate writes, the eBPF objects among it.
GENERATED = api/v1alpha1/zz_generated.deepcopy.go $(CRDS) controller/rest/openapi.json deploy/install.yaml $(wildcard bpf/*_bpfe[lb].[go]* bpf/*/*_bpfe[lb].[go]*)

.DEFAULT_GOAL := help
.PHONY: help build image generate generate-check lint deps test test-unit test-api test-hammer test-e2e test-kernel fuzz hammer bench demo demo-down lab lab-down clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the static binaries, in bin/
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./cmd/,$(BINARIES))

image: build ## the container image, dist/image.tar (a docker archive)
	go -C tools run ./image -bin $(CURDIR)/bin -out $(CURDIR)/dist/image.tar -tag $(IMAGE)

generate: deps bin/controller-gen ## deepcopy, CRDs, eBPF objects, deploy/install.yaml
	bin/controller-gen object paths=./api/...
	bin/controller-gen crd:crdVersions=v1 paths=./api/... output:crd:dir=api/v1alpha1/crds
	go generate ./bpf/...
	go test -count=1 -run '^TestDocument$$' ./controller/rest -update
	go -C tools run ./install -out $(CURDIR)/deploy/install.yaml $(addprefix $(CURDIR)/,$(firstword $(MANIFESTS)) $(CRDS) $(wordlist 2,99,$(MANIFESTS)))

generate-check: ## fail if make generate changes a committed file
	@before=$$(sha256sum $(GENERATED)); \
	$(MAKE) --no-print-directory generate >/dev/null || exit 1; \
	after=$$(sha256sum $(GENERATED)); \
	if [ "$$before" != "$$after" ]; then \
		echo "generated files are stale; commit what make generate writes:" >&2; \
		printf '%s\n%s\n' "$$before" "$$after" | sort | uniq -u | awk '{print "  " $$2}' | sort -u >&2; exit 1; \
	fi

# Its cache is the clone's own: it remembers findings with the path of the clone that had them, and reads nolint comments there.
lint: bin/golangci-lint ## golangci-lint, all clean
	GOLANGCI_LINT_CACHE=$(CURDIR)/bin/.lint bin/golangci-lint run --allow-parallel-runners --build-tags apiserver ./...

deps: ## install what is missing of Debian or Ubuntu packages
	scripts/deps.sh

test: deps generate-check lint test-unit test-api test-hammer test-e2e ## everything, the cluster tests included

test-unit: ## unit tests, and those in network namespaces
	go test -race $$(go list ./... | grep -v /tests/e2e)
	go -C tools test ./...
	go -C tests/cluster test ./...

test-api: deps bin/lab ## tests against a real kube-apiserver and etcd
	scripts/test-api.sh $(LAB_DIR)

test-hammer: deps bin/lab ## a short make hammer
	go run ./tests/hammer -n 1500 -seed 1 -lab-dir $(LAB_DIR)

hammer: deps bin/lab ## random operations and faults on agents and a real API server; N= operations, HAMMER_FLAGS= more
	go run ./tests/hammer -n $(N) -lab-dir $(LAB_DIR) $(HAMMER_FLAGS)

test-e2e: deps image bin/lab ## tests on the two-node lab
	go test -count=1 -timeout 30m ./tests/e2e/...

test-kernel: ## the data path's tests on Debian's 6.1 and 6.12, in slow virtual machines; no part of make test. KERNEL_FLAGS= more
	scripts/deps.sh qemu-system-x86_64:qemu-system-x86 xz:xz-utils setpriv:util-linux
	go run ./tests/kernel -dir $(LAB_DIR)/kernel $(KERNEL_FLAGS)

# Go fuzzes one target at a time. What it finds it keeps below testdata/fuzz of the package.
fuzz: ## each fuzz target for FUZZTIME (30s), one after the other
	@grep -roE '^func Fuzz[A-Za-z0-9]+' --include='*_test.go' agent bpf controller delegate ipam nad service | \
	sed 's|/[^/]*:func | |' | sort | while read -r dir target; do \
		echo "== $$dir $$target"; \
		go test ./$$dir -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) </dev/null || exit 1; \
	done

bench: deps image bin/lab ## figures on the two-node lab
	go run ./tests/bench

demo: deps image bin/lab ## a two-node cluster with Berth on this machine
	go run ./tests/demo up

demo-down: bin/lab ## stop it
	go run ./tests/demo down

lab: deps bin/lab ## the two-node cluster alone, without Berth
	bin/lab up --dir $(LAB_DIR)

lab-down: bin/lab ## stop it
	bin/lab down --dir $(LAB_DIR)

clean: ## remove what was built
	rm -rf bin dist

bin/controller-gen: tools/go.mod
	go -C tools build -o $(CURDIR)/bin/controller-gen sigs.k8s.io/controller-tools/cmd/controller-gen

bin/golangci-lint: tools/lint/go.mod
	go -C tools/lint build -trimpath -ldflags '-s -w' -o $(CURDIR)/bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: bin/lab
bin/lab:
	go -C tests/cluster build -o $(CURDIR)/bin/lab ./cmd/lab
