# `make` alone lists the targets. Everything is built with the Go toolchain that
# go.mod names; only runc, a C program in part, needs gcc and libseccomp.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)

# runc is built once for each set of modules and embedded. Without libseccomp it
# has no seccomp profiles: `make deps` installs it, `swarm version` says which.
RUNC      := worker/containerd/runc/embed
RUNC_VERSION := $(shell awk '$$1 == "github.com/opencontainers/runc" && $$2 ~ /^v/ { print $$2 }' go.mod)
RUNC_TAGS := $(if $(wildcard /usr/include/seccomp.h),seccomp )netgo osusergo

.DEFAULT_GOAL := help
.PHONY: help deps build clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install what the build and the tests need from the distribution, if it is missing
	@missing=; \
	command -v gcc >/dev/null || missing="$$missing gcc libc6-dev"; \
	[ -e /usr/include/seccomp.h ] || missing="$$missing libseccomp-dev"; \
	[ -x /bin/busybox ] || missing="$$missing busybox-static"; \
	[ -z "$$missing" ] || { apt-get update -q && apt-get install -y -q --no-install-recommends $$missing; }

build: $(RUNC)/runc ## bin/swarm: command line, daemon, containerd, shim and runc in one static file
	CGO_ENABLED=0 go build -trimpath -tags embedrunc -ldflags '$(LDFLAGS)' -o bin/swarm ./cmd/swarm

# about changes, and runc is built again, when its version does or libseccomp comes or goes.
$(RUNC)/about: FORCE
	@mkdir -p $(@D)
	@echo '$(RUNC_VERSION) $(RUNC_TAGS)' | cmp -s - $@ || echo '$(RUNC_VERSION) $(RUNC_TAGS)' >$@

$(RUNC)/runc: go.mod $(RUNC)/about
	CGO_ENABLED=1 go build -trimpath -buildvcs=false -tags '$(RUNC_TAGS)' -ldflags '-s -w -extldflags -static' \
		-o $@ github.com/opencontainers/runc
	@touch $@

clean: ## remove what was built
	rm -rf bin build $(RUNC)
