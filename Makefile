# `make` or `make help` lists the targets. Every one works in a fresh checkout with cargo, Go, git,
# make and a C compiler; the Go tools are built once, into a cache outside of the checkout.

CARGO ?= cargo
CACHE := $(or $(LLMKEY_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/llmkey-operator)
# What the last `make evidence` saw of each of its runs.
SEEN := target/traces.jsonl
# What the operator's image is built for: static binaries.
STATIC := $(shell uname -m)-unknown-linux-musl
TESTBED := $(CARGO) run --quiet --features testbed --bin testbed --
# Says how long a stage took: $(call stage,name,command)
stage = @echo "==> $(1)"; start=$$(date +%s); $(2) && echo "==> $(1): $$(($$(date +%s) - start)) s"

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: tools
tools: ## Build etcd, kube-apiserver, kube-controller-manager, kubectl and helm (minutes the first time)
	$(call stage,tools,hack/build-tools.sh all >/dev/null)

.PHONY: test-tools
test-tools: tools ## Build what only the tests need as well: promtool, Prometheus, and Flux's kstatus
	$(call stage,test tools,hack/build-tools.sh promtool prometheus kstatus >/dev/null)

.PHONY: build
build: ## Compile everything
	$(call stage,build,$(CARGO) build --all-targets --features testbed --locked)

.PHONY: lint
lint: ## Formatting, clippy with warnings as errors, and licences and advisories if cargo-deny is installed
	$(call stage,format,$(CARGO) fmt --check)
	$(call stage,clippy,$(CARGO) clippy --all-targets --features testbed --locked -- -D warnings)
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	  $(CARGO) deny --locked check bans licenses sources && \
	  if $(CARGO) deny fetch db >/dev/null 2>&1; then $(CARGO) deny --locked check advisories; \
	  else echo 'advisories are not checked: their database cannot be fetched'; fi; \
	else echo 'cargo-deny is not installed: licences and advisories are not checked'; fi

.PHONY: test
test: test-tools lint ## Everything that must hold: lints, unit tests, and tests against a real API server
	$(call stage,tests,$(CARGO) test --features testbed --locked)

.PHONY: crds
crds: ## Write the CRDs, docs/reference.md and the support matrix of docs/ from the Rust code
	$(CARGO) run --quiet --bin crdgen

.PHONY: site
site: ## Build docs/ as a site into target/site, and check its links: needs mdbook
	$(call stage,site,hack/site.sh)

.PHONY: up
up: tools ## Start a control plane and keep it until Ctrl-C
	$(TESTBED) up

.PHONY: demo
demo: tools ## Show the life of a key, from nothing to its revocation (USE_CURRENT_CONTEXT=1: in your cluster)
	$(call stage,build,$(CARGO) build --features testbed --locked --bin llmkey-operator --bin testbed)
	$(TESTBED) demo

.PHONY: bench
bench: tools ## Measure the operator against a real API server, into benches/ (N=1000: one size, printed only)
	$(call stage,build,$(CARGO) build --release --features testbed --locked --bin llmkey-operator --bin testbed)
	$(CARGO) run --quiet --release --features testbed --bin testbed -- bench $(if $(N),--keys=$(N),--out benches)

.PHONY: crash-matrix
crash-matrix: tools ## Strike every effect of the operator by every fault (ONLY=S2: a story, ONLY=S2:7:CA: a cell; PAIRS=1: by two, SAMPLE=20: one of 20; TRACES=file: for make replay; OPERATOR=program)
	$(call stage,build,$(CARGO) build --release --features testbed --locked --bin llmkey-operator --bin testbed)
	@$(CARGO) run --quiet --release --features testbed --locked --bin testbed -- crash-matrix \
	  $(if $(PAIRS),--pairs $(addprefix --sample=,$(SAMPLE))) \
	  $(addprefix --only=,$(ONLY)) $(addprefix --traces=,$(TRACES)) $(if $(OPERATOR),--operator=$(OPERATOR)) \
	  $(if $(OPERATOR)$(findstring :,$(ONLY)),,$(if $(PAIRS),$(if $(ONLY),,--write docs/evidence/crash-matrix-pairs.md),--pages docs/evidence/crash-matrix))

.PHONY: evidence
evidence: tools ## The quick part of the evidence: S1, S2, S5 and S6 of the crash matrix, with a debug build
	$(call stage,build,$(CARGO) build --features testbed --locked --bin llmkey-operator --bin testbed)
	@mkdir -p $(dir $(SEEN))
	$(call stage,crash matrix,$(TESTBED) crash-matrix $(addprefix --only=,S1 S2 S5 S6) --traces=$(SEEN))

.PHONY: model
model: ## Explore the model of the planner, every interleaving within stated bounds (FULL=1: the great bounds too; ONLY=two-: some; MEMORY=12: GiB at most)
	$(CARGO) run --quiet --release --locked --features testbed,model --bin model -- $(if $(FULL),--full) $(if $(ONLY),--only '$(ONLY)') $(addprefix --memory=,$(MEMORY))

.PHONY: replay
replay: $(if $(FILE),,evidence) ## Replay runs of the operator through the model: those of make evidence, or FILE=, as --traces wrote it
	$(call stage,replay,$(CARGO) run --quiet --release --locked --features testbed --features model --bin model -- --replay '$(or $(FILE),$(SEEN))')

.PHONY: contract
contract: ## Play every provider's cases of tests/contract: requests to the letter, and what each answer means
	@mkdir -p target
	@$(CARGO) test --quiet --features testbed --locked --lib -- --nocapture provider::contract >target/contract.log 2>&1; ended=$$?; \
	  awk '/^FAIL /{print; f = 1; next} f && /^    /{print; next} {f = 0} /^[0-9]+ passed, [0-9]+ failed$$/' target/contract.log; \
	  [ $$ended -eq 0 ] || grep -q '^FAIL ' target/contract.log || cat target/contract.log; exit $$ended

.PHONY: e2e
e2e: tools ## The operator in its own image on a real node, with pods that use the keys: needs root, containerd and runc (SHORT=1: one rotation; KEEP=1: keep all logs)
	$(call stage,build,$(CARGO) build --features testbed --locked --bin testbed)
	@$(TESTBED) e2e --check
	$(call stage,static build,$(CARGO) build --release --features prober --locked --target $(STATIC) --bin llmkey-operator --bin prober)
	@$(TESTBED) e2e $(if $(SHORT),--short) $(if $(KEEP),--keep)

.PHONY: herd
herd: tools ## Halve the interval of 5,000 keys at once (KEYS=500: fewer)
	$(call stage,build,$(CARGO) build --release --features testbed --locked --bin llmkey-operator --bin testbed)
	@$(CARGO) run --quiet --release --features testbed --locked --bin testbed -- herd \
	  $(if $(KEYS),--keys=$(KEYS),--write docs/evidence/herd.md)

.PHONY: mutants
mutants: tools ## Apply each deliberate fault of tests/mutants and see that a test catches it (ONLY=m05: some of them)
	@hack/mutants.sh $(ONLY)

.PHONY: clean-cache
clean-cache: ## Remove the built Go tools and the continuous integration's build directory
	cd '$(CACHE)' && rm -rf -- control-plane-* helm-* promtool-* prometheus-* kstatus-* ./*.lock ./*.build.log target
