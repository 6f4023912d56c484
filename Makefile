# `make` alone lists the targets. Everything is built with the Go toolchain that
# go.mod names; only runc, a C program in part, needs gcc and libseccomp.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
REVISION := $(shell git rev-parse --short=12 HEAD 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.revision=$(REVISION)

# runc is built once for each set of modules and embedded. Without libseccomp it would run containers without a
# seccomp profile, so a build without it stops, unless SECCOMP=no asks for that. `make deps` installs it. The recipe
# looks for it, not this line: make reads this before `deps` has run.
SECCOMP ?= yes
INCLUDE ?= /usr/include
RUNC      := containerd/runc/embed
RUNC_VERSION := $(shell awk '$$1 == "github.com/opencontainers/runc" && $$2 ~ /^v/ { print $$2 }' go.mod)
RUNC_TAGS := $(if $(filter no,$(SECCOMP)),,seccomp )netgo osusergo

.DEFAULT_GOAL := help
.PHONY: help deps deps-bench deps-vm vm build demo test check scenarios bare bench bench-peer soak fuzz vuln generate install clean FORCE image cross

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install what the build and the tests need from the distribution, if it is missing
	@missing=; \
	command -v gcc >/dev/null || missing="$$missing gcc libc6-dev"; \
	[ '$(SECCOMP)' = no ] || [ -e '$(INCLUDE)/seccomp.h' ] || missing="$$missing libseccomp-dev"; \
	[ '$(SECCOMP)' = no ] || command -v pkg-config >/dev/null || missing="$$missing pkg-config"; \
	[ -x /bin/busybox ] || missing="$$missing busybox-static"; \
	command -v ip >/dev/null || missing="$$missing iproute2"; \
	command -v nft >/dev/null || missing="$$missing nftables"; \
	[ -z "$$missing" ] || { apt-get update -q && apt-get install -y -q --no-install-recommends $$missing; }

build: $(RUNC)/runc ## bin/swarm: command line, daemon, containerd, shim and runc in one static file; SECCOMP=no without libseccomp
	CGO_ENABLED=0 go build -trimpath -tags embedrunc -ldflags '$(LDFLAGS)' -o bin/swarm ./cmd/swarm

# about says how the runc beside it was built. It changes, and runc is built again, when the version or SECCOMP does.
$(RUNC)/about: FORCE
	@mkdir -p $(@D)
	@echo '$(RUNC_VERSION) $(RUNC_TAGS)' | cmp -s - $@ && exit; \
	[ '$(SECCOMP)' = no ] || [ -e '$(INCLUDE)/seccomp.h' ] || { \
		echo '$(INCLUDE)/seccomp.h is missing. Without libseccomp, containers would run without a seccomp profile.'; \
		echo 'Install it: make deps. To build without it all the same: make build SECCOMP=no'; exit 1; }; \
	echo '$(RUNC_VERSION) $(RUNC_TAGS)' >$@

$(RUNC)/runc: go.mod $(RUNC)/about
	CGO_ENABLED=1 go build -trimpath -buildvcs=false -tags '$(RUNC_TAGS)' -ldflags '-s -w -extldflags -static' \
		-o $@ github.com/opencontainers/runc || { rm -f $(RUNC)/about; exit 1; }
	@touch $@

image: build/hello.tar

build/hello.tar: $(wildcard scenarios/hello/*.go scenarios/mkimage/*.go scenarios/traffic/*.go) go.mod
	@mkdir -p build
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o build/hello ./scenarios/hello
	go run ./scenarios/mkimage -o $@ -t swarm/hello:1 build/hello

demo: deps build image ## five hosts on this machine, ten replicas, a host lost and what becomes of them
	bin/swarm dev down --name demo
	scenarios/demo.sh

bare: deps image ## swarm on Debian's minimal base, with nothing else installed
	@command -v debootstrap >/dev/null && command -v ip >/dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends debootstrap iproute2; }
	scenarios/bare.sh

# Packages that run containers or make namespaces need root, and the embedded runc, so build comes first.
test: deps build cross image ## everything: unit, synctest, property and contract tests with the race detector, then real clusters
	go vet ./...
	CGO_ENABLED=1 go test -race -shuffle=on -tags embedrunc -timeout 10m $$(go list ./... | grep -v /scenarios)
	go test -count=1 -timeout 30m -parallel $(PARALLEL) ./scenarios
	go test -count=1 -timeout 10m -parallel 8 ./scenarios/differential

# Scenarios share the machine's cores with five daemons each.
PARALLEL ?= 2

cross: ## the command line compiles where no container can run
	GOOS=darwin GOARCH=arm64 go build -o /dev/null ./cmd/swarm
	GOOS=linux GOARCH=arm64 go build -o /dev/null ./cmd/swarm

check: deps build ## generated code is current, format, vet, staticcheck, house rules, race tests
	@go generate ./proto/... ./raftstore/table && git diff --exit-code -- proto raftstore/table || { echo 'generated code differs: commit what make generate gives'; exit 1; }
	@test -z "$$(go tool gofumpt -l . | grep -v pb.go)" || { go tool gofumpt -l .; echo 'run: go tool gofumpt -w .'; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	CGO_ENABLED=1 go test -race -shuffle=on -tags embedrunc ./internal/... ./manager/... ./raftstore/... ./cli/... ./adapter/... ./worker/... ./node/...

RUN   ?= .
COUNT ?= 1
scenarios: deps build ## real clusters; RUN=name for one, COUNT=20 for twenty rounds (resumed where they were stopped)
	scenarios/rounds.sh '$(RUN)' '$(COUNT)' '$(PARALLEL)'

deps-bench: deps ## what benchmarks compare with
	@missing=; \
	command -v dockerd >/dev/null || missing="$$missing docker.io"; \
	for tool in iperf3 wrk curl; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	command -v ip >/dev/null || missing="$$missing iproute2"; \
	[ -z "$$missing" ] || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; }

ONLY   ?=
ROUNDS ?= 5
bench: deps-bench build image ## figures against peers and limits, in the same run; ONLY=cold,containers,latency,placement,logs,image,idle,net,net-scale; only by name: churn,services,rolling,node-loss
	go run ./bench -only='$(ONLY)' -rounds=$(ROUNDS)

bench-peer: deps-bench build image ## against another system's cluster, for minutes; ONLY=overlay,rolling; only by name: differential
	go run ./bench -peer -only='$(ONLY)' -rounds=$(ROUNDS)

deps-vm: deps ## what makes and runs virtual machines
	@missing=; \
	for need in qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils mmdebstrap:mmdebstrap mkfs.ext4:e2fsprogs ip:iproute2; do \
		command -v $${need%:*} >/dev/null || missing="$$missing $${need#*:}"; \
	done; \
	[ -z "$$missing" ] || { apt-get update -q && apt-get install -y -q --no-install-recommends $$missing; }

vm: deps-vm build image ## three Debian machines in qemu: systemd, cgroup v2, restarts, upgrade, reboots; a green run goes into docs/verified.md
	@mkdir -p build/vm
	CGO_ENABLED=0 go build -trimpath -tags embedrunc -ldflags '$(LDFLAGS) -X main.version=$(VERSION)-next' -o build/vm/next ./cmd/swarm
	CGO_ENABLED=0 go build -trimpath -o build/vm/vm ./scenarios/vm
	build/vm/vm -record docs/verified.md -revision '$(VERSION)'

MINUTES ?= 30
TEST    ?=
soak: deps build ## 500 rounds of networks made and removed, then scenarios, in random order, for MINUTES; or ROUNDS rounds of TEST, resumable
	@if [ -n '$(TEST)' ]; then scenarios/resume.sh '$(TEST)' '$(ROUNDS)'; else scenarios/soak.sh '$(MINUTES)' '$(PARALLEL)'; fi

FUZZTIME ?= 20s
fuzz: ## every fuzz test for FUZZTIME
	@for pkg in $$(go list ./...); do \
		for f in $$(go test -list '^Fuzz' $$pkg 2>/dev/null | grep '^Fuzz'); do \
			echo "$$pkg $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

VULNDB ?= https://vuln.go.dev
vuln: ## known vulnerabilities in the code that is called; VULNDB=file:///FOLDER for a copy of the database
	go tool govulncheck -db '$(VULNDB)' ./...

generate: ## the code that is made from the .proto files, and the tables of the store
	go generate ./proto/... ./raftstore/table

PREFIX ?= /usr/local
install: build ## bin/swarm to PREFIX/bin
	install -D -m 0755 bin/swarm $(DESTDIR)$(PREFIX)/bin/swarm

clean: ## remove what was built
	rm -rf bin build $(RUNC)
