#!/usr/bin/env bash
# Proves that the tests bite: applies each deliberate fault of tests/mutants to a copy of the checkout, one at a time, and runs
# what the fault's own file says must catch it. A fault that nothing catches, that does not apply, or that does not compile where
# a test should catch it, fails the run. Usage: hack/mutants.sh [NAME...]; a name is a part of a file's name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cache=${LLMKEY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/llmkey-operator}/mutants
copy=$cache/checkout
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
# A test that waits for what never comes has caught its fault as well.
limit=${LLMKEY_MUTANT_SECONDS:-300}
mutants=$PWD/tests/mutants
page=$PWD/docs/evidence/mutants.md

mkdir -p "$copy" "$CARGO_TARGET_DIR"
exec 9>"$cache/lock"
flock 9
rm -rf -- "${copy:?}"
mkdir -p "$copy"
# With times of its own: a build of an earlier, faulty copy must not look newer than the sources.
git ls-files -z | tar --null --files-from=- --create | tar --extract --touch --directory "$copy"
cd "$copy"
git init --quiet

caught_by() { sed -n 's/^Caught by: //p' "$1"; }

# Compiles what `$1 ...` runs; the tests' own output is of no interest here.
compile() {
  case $1 in
    build) cargo check --quiet --features testbed --locked --lib ;;
    lib) cargo test --quiet --features testbed --locked --lib --no-run ;;
    it) cargo test --quiet --features testbed --locked --test it --no-run ;;
  esac
}

# Runs the tests whose names contain one of the words.
run() {
  local kind=$1
  shift
  case $kind in
    build) true ;;
    lib) timeout "$limit" cargo test --quiet --features testbed --locked --lib -- "$@" ;;
    it) timeout "$limit" cargo test --quiet --features testbed --locked --test it -- "$@" ;;
  esac
}

selected=()
for patch in "$mutants"/*.patch; do
  name=$(basename "$patch" .patch)
  if [ $# -eq 0 ]; then selected+=("$patch"); fi
  for part in "$@"; do case $name in *"$part"*) selected+=("$patch") ;; esac; done
done

log=$cache/log
echo "without a fault:"
while read -r words; do
  # shellcheck disable=SC2086
  if ! { compile $words && run $words; } >"$log" 2>&1; then
    tail -n 40 "$log"
    echo "'$words' fails without any fault: nothing can be told of the faults"
    exit 1
  fi
  echo "  passes: $words"
done < <(for patch in "${selected[@]}"; do caught_by "$patch"; done | sort -u)

passed=0 failed=0 rows=
for patch in "${selected[@]}"; do
  name=$(basename "$patch" .patch)
  words=$(caught_by "$patch")
  begin=$SECONDS
  if ! git apply -C1 "$patch" >"$log" 2>&1; then
    verdict="DOES NOT APPLY"
  else
    # shellcheck disable=SC2086
    if compile $words >"$log" 2>&1; then compiled=yes; else compiled=no; fi
    case $words,$compiled in
      build,no) verdict=caught ;;
      build,yes) verdict=SURVIVED ;;
      *,no) verdict="DOES NOT COMPILE" ;;
      # shellcheck disable=SC2086
      *) if run $words >"$log" 2>&1; then verdict=SURVIVED; else verdict=caught code=$?; fi ;;
    esac
    by=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p; s/^    \([a-z_:0-9]*\)$/\1/p' "$log" | sort -u | sed -n 1p)
    if [ -z "$by" ] && [ "${code:-0}" -eq 124 ]; then by="no end within $limit s"; fi
    code=0
    git apply -C1 --reverse "$patch"
  fi
  if [ "$verdict" = caught ]; then passed=$((passed + 1)); else failed=$((failed + 1)); cp "$log" "$cache/$name.log"; fi
  printf '%-32s %-16s %4d s  %s\n' "$name" "$verdict" $((SECONDS - begin)) "${by:-$words}"
  rows+="| $name | $(head -n 1 "$patch") | $verdict | \`${by:-$words}\` |"$'\n'
  by=
done
# A run of some of them renews their rows and leaves the others.
others=
if [ $# -gt 0 ] && [ -e "$page" ]; then
  others=$(grep '^| [a-z][0-9]' "$page" || true)
  for patch in "${selected[@]}"; do
    others=$(grep -v "^| $(basename "$patch" .patch) |" <<<"$others" || true)
  done
fi
if [ $# -eq 0 ] || [ -n "$others" ]; then
  rows=$(printf '%s%s\n' "$rows" "$others" | sed '/^$/d' | sort)
  {
    printf '# Deliberate faults\n\n'
    printf 'Written by `make mutants`. What it proves: [README.md](README.md#the-mutants). Each row is a fault of `tests/mutants`, and a\n'
    printf 'test that failed because of it; `build` means that the faulty program does not compile.\n\n'
    printf '| Fault | What it does | Verdict | By |\n|---|---|---|---|\n%s\n\n' "$rows"
    printf '%s passed, %s failed\n' "$(grep -c '| caught |' <<<"$rows")" "$(grep -vc '| caught |' <<<"$rows" || true)"
  } >"$page"
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
