# SPDX-License-Identifier: Apache-2.0

# The two commands: `make demo` shows the guide on virtual InfiniBand cards, `make test` runs every test. Both set up what they need.
# `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# One setting for everything that is compiled here, so that the compiler's cache serves all of it.
export CGO_ENABLED := 0
export GOFLAGS := -trimpath -buildvcs=false

LAB = cd lab && go run ./cmd/lab
KUBE_BIN = $$(cd lab && go run ./cmd/lab kube-bin)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | column -t -s $$'\t'

.PHONY: setup
setup: ## install the Debian packages that the lab needs (apt-get, as root or by sudo)
	@lab/setup

.PHONY: demo
demo: setup ## bring up the lab, walk the guide, leave the lab running
	@$(LAB) demo

.PHONY: up down env
up: setup ## bring up the lab
	@$(LAB) up
down: ## stop the lab
	@$(LAB) down
env: ## print what makes a shell use the lab's kubectl and helm: eval "$$(make -s env)"
	@$(LAB) env

.PHONY: test
test: ## run every test, the lab's included; prints what each part took (make -k test: go on after a failure)
	@+MAKE="$(MAKE)" test/parts setup check kube test-unit test-release test-race test-arm64 test-vhca test-lab

# What make test leaves out, because it takes long and rarely tells anything that the shorter form does not:
#   test-vhca-stress  a minute of traffic beside rebinds: the load says nothing that the other checks of the card do not
#   test-lab-long     what make test does as well, more often: 10 restarts of the kubelet instead of 3, 12 pods and VFs over a
#                     reboot instead of 4, 200 pods in 13 waves with a power failure instead of 16 in 2 without. And two tests
#                     of minutes each: TestTwoControllers, since internal/process and internal/controller show the takeover
#                     beside a real API server; TestUpgrade, which tells something when the chart or the records' format changes
#   test-arm64-lab    compiles the lab's hundreds of packages for arm64, where nobody runs it
#   test-newcomer     docs/try-it.md in a new clone, with a life of the lab of its own; test-lab runs the same commands but
#                     for those that start and end the lab
#   test-reproducible compiles the product twice more, once without the compiler's cache; test-release shows the same on a
#                     small program
#   test-model        the model of address management with 200 000 schedules instead of 4 000: more than an hour
.PHONY: test-long
test-long: ## what make test leaves out because it takes long and rarely tells anything; prints what each part took
	@+MAKE="$(MAKE)" test/parts setup kube test-vhca-stress test-lab-long test-arm64-lab test-newcomer test-reproducible test-model

.PHONY: check
check: ## formatting, vet, linters, generated files
	@echo "== check"
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt wants to change: $$out"; exit 1; }
	@go vet ./...
	@cd release && go vet ./...
	@cd lab && go vet $$(go list ./... | grep -v /cmd/kube) # vetting what links Kubernetes would compile it once more
	@$(MAKE) --no-print-directory check-headers check-licenses actionlint lint generate
	@git diff --exit-code --stat -- api config charts docs/reference || { echo "generated files are stale: commit what 'make generate' changed"; exit 1; }

.PHONY: lint
lint: ## golangci-lint with .golangci.yml over both modules
	@echo "== lint"
	@tools/lint

.PHONY: vulncheck
vulncheck: ## known vulnerabilities that the code reaches; needs vuln.go.dev, so no part of test
	@tools/vulncheck

.PHONY: generate
generate: ## deep copies, CRDs, the chart's copy of them
	@cd api && go generate ./...
	@go generate ./charts
	@$(MAKE) --no-print-directory docs

.PHONY: kube
kube: ## compile the Kubernetes programs into the cache (once per machine)
	@echo $(KUBE_BIN)

.PHONY: test-unit
test-unit: ## the fast tests, with a real API server
	@echo "== unit tests of the product"
	@KUBEBUILDER_ASSETS=$(KUBE_BIN) go test -timeout 30m ./...
	@echo "== unit tests of the lab"
	@cd lab && go test -short ./...

# What runs goroutines in parallel. Of the address model a few schedules do, and its planted faults are left out:
# they are errors of logic, which the detector does not see, and it makes each schedule ten times slower. That a schedule
# goes the same way twice is left out too: the detector shuffles goroutines on purpose.
RACE_PACKAGES = $(addprefix ./internal/,attach/... ledger cnisock deviceplugin agent/... controller/... operator)

.PHONY: test-race
test-race: ## the packages with goroutines, under the race detector (cgo)
	@echo "== race detector"
	@CGO_ENABLED=1 KUBEBUILDER_ASSETS=$(KUBE_BIN) go test -race -timeout 30m $(RACE_PACKAGES)
	@CGO_ENABLED=1 KUBEBUILDER_ASSETS=$(KUBE_BIN) go test -race -timeout 30m -skip '^TestModel(FindsMutants|Replays)$$' ./internal/leases -args -schedules 100

.PHONY: test-model
test-model: ## the model of address management for long (SCHEDULES=200000)
	@go test -count=1 -timeout 0 -v -run '^TestModel$$' ./internal/leases -args -schedules $${SCHEDULES:-200000}

.PHONY: test-arm64 test-arm64-lab
test-arm64-lab: ## vet the lab and the release tool for linux/arm64
	@test/arm64 lab
test-arm64: ## compile and vet for linux/arm64; the tests that need no namespaces and no API server, under user-mode emulation
	@test/arm64

.PHONY: test-vhca test-vhca-stress
test-vhca: ## the kernel module in virtual machines
	@echo "== the virtual card in virtual machines"
	@cd lab && go test -count=1 -timeout 20m -v ./vhca
test-vhca-stress: ## the kernel module under load, in virtual machines
	@cd lab && go test -count=1 -timeout 20m -v -run '^TestStress$$' ./vhca -args -stress

.PHONY: test-lab
test-lab: ## the guide and everything else that needs the lab
	@echo "== the guide and more, in the lab"
	@cd lab && go test -count=1 -timeout 75m -v ./e2e

.PHONY: test-lab-long
test-lab-long: setup ## the same with 10 restarts of the kubelet, 12 pods over a reboot, 200 pods in waves (E2E=Waves runs one)
	@cd lab && go test -count=1 -timeout 0 -v ./e2e -run "TestGuide|$${E2E:-.}" -args -long

.PHONY: test-newcomer
test-newcomer: ## every command of docs/try-it.md, in a new clone
	@test/newcomer

.PHONY: test-reproducible
test-reproducible: ## two builds of this commit, in two clones, have one digest
	@test/reproducible

.PHONY: bench-cni
bench-cni: setup ## CNI ADD and DEL beside the bare kernel steps, in the lab: real pods, many at once, several networks (BENCH_FLAGS="-n 10 --only many")
	@$(LAB) bench cni $(BENCH_FLAGS)

.PHONY: bench-sriov
bench-sriov: setup ## what making VFs costs beside the kernel's own steps, an idle agent, an agent's death (BENCH_FLAGS="-n 1 --vfs 1,16")
	@$(LAB) bench sriov --cards 2 $(BENCH_FLAGS)

.PHONY: bench-ipam
bench-ipam: setup ## what an address costs: agents, pool sizes, and the design of one pool object (BENCH_FLAGS="--quick --agents 1,10")
	@KUBEBUILDER_ASSETS=$(KUBE_BIN) go run ./internal/leases/ipambench $(BENCH_FLAGS)

.PHONY: fuzz
fuzz: ## every fuzz target for a while (FUZZTIME=30s)
	@for dir in . lab; do (cd $$dir; for p in $$(go list ./...); do \
		for f in $$(go test -list '^Fuzz' $$p 2>/dev/null | grep '^Fuzz' || true); do \
			echo "== $$p $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $${FUZZTIME:-30s} -fuzzminimizetime 10x $$p; done; done); done

.PHONY: check-headers
check-headers: ## the SPDX line of every source file ("go run ./test/headers -fix" adds it)
	@go run ./test/headers

LICENSES = cd tools/licenses && go run . -C ../..
# Neither the release tool nor the lab is distributed: code that is only used there may be under these licences too.
LICENSES_RELEASE = cd tools/licenses && go run . -C ../../release -also CC-BY-SA-4.0
LICENSES_LAB = cd tools/licenses && go run . -C ../../lab -also MPL-2.0,CC-BY-SA-4.0

.PHONY: licenses check-licenses
licenses: ## write THIRD_PARTY_LICENSES, the texts that go out with a release
	@$(LICENSES) -out THIRD_PARTY_LICENSES -write ./cmd/...
check-licenses: ## the licences of what is linked into the product, the release tool and the lab
	@cd tools/licenses && go vet . && go test .
	@$(LICENSES) -out THIRD_PARTY_LICENSES ./cmd/...
	@$(LICENSES_RELEASE) ./...
	@$(LICENSES_LAB) ./...

.PHONY: actionlint
actionlint: ## the workflows: syntax, expressions, and that they only call targets of this file
	@$$(tools/build actionlint) -shellcheck= -pyflakes=
	@go test ./test/workflows

.PHONY: docs
docs: ## write docs/reference: API, chart values and metrics
	@go run ./test/reference

# What the commands of release/ take, from make's command line or the environment.
RELEASE = cd release && go run ./cmd/release
RELEASE_FLAGS = --version '$(VERSION)' --platforms '$(PLATFORMS)' --registry '$(REGISTRY)' --source '$(SOURCE)' \
	$(if $(filter 1 true yes,$(INSECURE)),--insecure) $(if $(filter 1 true yes,$(ALLOW_DIRTY)),--allow-dirty)

.PHONY: build image push release
build: ## static programs for linux/amd64 and linux/arm64 in bin/ (PLATFORMS=linux/arm64 VERSION=v0.2.0)
	@$(RELEASE) build $(RELEASE_FLAGS)
image: ## one multi-architecture OCI image in bin/image, without a container engine
	@$(RELEASE) image $(RELEASE_FLAGS)
push: ## build and push the image (REGISTRY=registry.example.com/me; INSECURE=1 for plain HTTP)
	@$(RELEASE) push $(RELEASE_FLAGS)
release: ## push image and chart, with SBOM, CRDs and checksums in bin/release (REGISTRY=... VERSION=v0.2.0)
	@$(RELEASE) release $(RELEASE_FLAGS)

.PHONY: test-release
test-release: ## the tests of building and publishing
	@echo "== building and publishing"
	@cd release && go test ./...
