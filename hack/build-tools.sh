#!/usr/bin/env bash
# Builds the Go tools that tests, demo and benchmark need, once, into a cache outside of the checkout.
#
#   hack/build-tools.sh control-plane|helm|promtool|prometheus|kstatus|all
#
# Standard output: the directory of each, one a line. It holds the binaries under their usual names
# (etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kubectl; helm; promtool; prometheus; kstatus).
# Standard error: progress.
#
# Cache: ${LLMKEY_CACHE:-${XDG_CACHE_HOME:-~/.cache}/llmkey-operator}/<tool>-<hash of its sources>/.
# The hash leaves out the version of Go, so that a machine with a filled cache needs no Go at all.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${LLMKEY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/llmkey-operator}
progress_every=15

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Directory of the module, package, tags, ldflags and the names that the binary is known by; the first is the binary itself.
describe() {
  module=$1 tags=
  case $1 in
    control-plane)
      package=.
      # Without these the API server reports a version that helm and kubectl refuse to parse.
      local version minor
      version=$(sed -n 's|^\tk8s.io/kubernetes ||p' "$here/control-plane/go.mod")
      minor=${version#v1.}
      local key=k8s.io/component-base/version
      ldflags="-s -w -X $key.gitVersion=$version -X $key.gitMajor=1 -X $key.gitMinor=${minor%%.*}"
      names=(control-plane etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl)
      ;;
    helm)
      package=helm.sh/helm/v4/cmd/helm
      ldflags='-s -w'
      names=(helm)
      ;;
    kstatus)
      package=.
      ldflags='-s -w'
      names=(kstatus)
      ;;
    promtool | prometheus)
      module=prometheus
      package=github.com/prometheus/prometheus/cmd/$1
      # Clouds whose machines it could find are of no use here.
      tags=remove_all_sd
      ldflags='-s -w'
      names=("$1")
      ;;
    *) die "no such tool: $1 (control-plane, helm, promtool, prometheus, kstatus, all)" ;;
  esac
}

hash_of() {
  local sum='sha256sum'
  command -v sha256sum >/dev/null || sum='shasum -a 256'
  { uname -sm; echo "$ldflags"; cd "$here/$module"; find . -name '*.go' -o -name 'go.mod' -o -name 'go.sum' | LC_ALL=C sort | xargs cat; } |
    $sum | cut -c1-16
}

require_go() {
  local want
  want=$(sed -n 's/^go //p' "$here/$module/go.mod")
  command -v go >/dev/null || die "Go $want or newer is needed to build $1, and no 'go' is on the PATH: https://go.dev/dl"
  # Inside the module: go may fetch the version that go.mod asks for, unless GOTOOLCHAIN forbids it.
  (cd "$here/$module" && go list -m >/dev/null 2>&1) ||
    die "Go $want or newer is needed to build $1, and $(GOTOOLCHAIN=local go env GOVERSION) is older: https://go.dev/dl, or unset GOTOOLCHAIN so that go fetches it"
  say "$1: building with $(cd "$here/$module" && go env GOVERSION); the first build takes some minutes, later runs use $cache"
}

# One line every few seconds with what the build is doing, until it ends.
report() {
  local tool=$1 log=$2 pid=$3 start=$SECONDS shown=$SECONDS
  while kill -0 "$pid" 2>/dev/null; do
    sleep 1
    if ((SECONDS - shown >= progress_every)); then
      shown=$SECONDS
      local compiled last
      compiled=$(grep -vc '^go: ' "$log" || true)
      last=$(tail -n 1 "$log" | cut -c1-80)
      say "$tool: $((SECONDS - start)) s, $compiled packages compiled; now ${last:-linking}"
    fi
  done
}

build() {
  local tool=$1 module package tags ldflags names
  describe "$tool"
  local dir
  dir=$cache/$tool-$(hash_of "$tool")
  if [[ ! -x $dir/${names[0]} ]]; then
    mkdir -p "$cache"
    # Two runs at once: the second waits and finds the first one's result. Without flock(1) both
    # build, and the rename below keeps that harmless.
    exec 9>"$cache/$tool.lock"
    if command -v flock >/dev/null && ! flock -n 9; then
      say "$tool: waiting for another build of it to end"
      flock 9
    fi
    [[ -x $dir/${names[0]} ]] || compile "$tool" "$dir"
    exec 9>&-
  fi
  echo "$dir"
}

compile() {
  local tool=$1 dir=$2 start=$SECONDS log pid
  require_go "$tool"
  log=$cache/$tool.build.log
  staging=$(mktemp -d "$cache/$tool.XXXXXX")
  trap 'rm -rf "$staging"' EXIT
  # No cgo: no C compiler needed and one static file.
  (cd "$here/$module" && CGO_ENABLED=0 GOFLAGS=-buildvcs=false exec go build -v -mod=readonly -trimpath -tags "$tags" \
    -ldflags "$ldflags" -o "$staging/${names[0]}" "$package") >"$log" 2>&1 9>&- &
  pid=$!
  report "$tool" "$log" "$pid"
  if ! wait "$pid"; then
    grep -vE '^[A-Za-z0-9./_-]+$|^go: downloading' "$log" | tail -n 5 >&2 || true
    ! grep -qE ': Get "https?://|: reading https?://' "$log" ||
      die "a module of $tool could not be downloaded: check the network and GOPROXY; all of Go's output is in $log"
    die "building $tool failed; all of Go's output is in $log"
  fi
  local name
  for name in "${names[@]:1}"; do ln -s "${names[0]}" "$staging/$name"; done
  chmod 755 "$staging"
  rm -rf "$dir"
  mv "$staging" "$dir"
  trap - EXIT
  say "$tool: built in $((SECONDS - start)) s"
}

# The user has all three programs already: nothing to build.
assets_complete() {
  local dir=${KUBEBUILDER_ASSETS:-}
  [[ -n $dir && -x $dir/etcd && -x $dir/kube-apiserver && -x $dir/kube-controller-manager ]]
}

[[ $# -gt 0 ]] || die "usage: $0 control-plane|helm|promtool|prometheus|kstatus|all"
for tool in "$@"; do
  if [[ $tool == all ]]; then
    if assets_complete; then say "control-plane: using KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS"; else build control-plane; fi
    build helm
  else
    build "$tool"
  fi
done
