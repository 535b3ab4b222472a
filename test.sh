#!/usr/bin/env bash
# Runs everything that must hold: format, lints, documentation, the page, Rust and Python tests, plug-ins, a short fuzz of
# every target, a bench smoke. Goes on after a failure, so that one run shows all of them. The last line counts the tests of
# cargo and pytest; the exit status is that of all steps together.
#
#   RONCHI_FUZZ_SECONDS  seconds per fuzz target (10)
#   RONCHI_KILLS         kill -9 rounds (50)
#   CI=true              a missing nightly toolchain or cargo-fuzz is a failure instead of a skip
set -uo pipefail
cd "$(dirname "$0")" || exit 2
exec </dev/null

LOGS=target/test-logs
FUZZ_SECONDS=${RONCHI_FUZZ_SECONDS:-10}
passed=0 failed=0 skipped=0
results=()
status=0
mkdir -p "$LOGS"

# step NAME COMMAND...: runs it with its output shown and kept in a log; remembers how it went.
step() {
  local name=$1 begin=$SECONDS
  shift
  printf '\n==> %s: %s\n' "$name" "$*"
  if "$@" 2>&1 | tee "$LOGS/$name.log"; then outcome=ok; else outcome=FAILED status=1; fi
  results+=("$(printf '%-14s %-7s %4d s' "$name" "$outcome" $((SECONDS - begin)))")
  [ "$outcome" = ok ]
}

# skip NAME REASON: a step that cannot run here; a failure on CI.
skip() {
  local outcome=skipped
  if [ "${CI:-}" = true ]; then outcome=FAILED status=1; fi
  printf '\n==> %s: %s, because %s\n' "$1" "$outcome" "$2"
  results+=("$(printf '%-14s %-7s %s' "$1" "$outcome" "$2")")
}

# sum WORD FILE: adds the numbers before WORD in the closing lines of a test run.
sum() {
  grep -aE '^test result:|^=+ .*(passed|failed|skipped|errors?|no tests ran).* in [0-9.]+s' "$2" |
    grep -oE "[0-9]+ $1" | awk '{ n += $1 } END { print n + 0 }'
}

count() {
  local name=$1 log="$LOGS/$1.log" outcome=$2 broken
  broken=$(($(sum failed "$log") + $(sum 'errors?' "$log")))
  # A run that failed without a failed test (it did not compile, it was killed) counts as one.
  if [ "$outcome" != ok ] && [ "$broken" = 0 ]; then broken=1; fi
  passed=$((passed + $(sum passed "$log")))
  failed=$((failed + broken))
  skipped=$((skipped + $(sum ignored "$log") + $(sum skipped "$log")))
}

# The plug-ins of the tests, in the debug ronchi that cargo-test has built with all it takes to run them.
plugins() {
  local crate wasm=wasm32-unknown-unknown
  for crate in examples/plugin plugins/tests/faulty; do
    cargo fmt --manifest-path "$crate/Cargo.toml" -- --check || return 1
    cargo build --release --locked --target "$wasm" --target-dir target/guests --manifest-path "$crate/Cargo.toml" || return 1
  done
  RONCHI_BIN=target/debug/ronchi .venv/bin/python -B -m pytest tests/python/test_plugins.py -p no:cacheprovider -ra
}

# The page: types, its own tests, and that the committed build is that of the sources.
web() {
  npm --prefix web ci --no-audit --no-fund && npm --prefix web run check && npm --prefix web test || return 1
  npm --prefix web run build -- --outDir ../target/web-dist --emptyOutDir && diff -r web/dist target/web-dist ||
    { printf 'web/dist is not what web/ builds: run npm --prefix web run build, and commit it\n'; return 1; }
}

fuzz_all() {
  local target targets
  targets=$(cargo +nightly fuzz list) || return 1
  cargo +nightly fuzz build || return 1
  for target in $targets; do
    local grown="target/fuzz-corpus/$target" seeds="fuzz/seeds/$target"
    mkdir -p "$grown"
    [ -d "$seeds" ] || seeds=
    printf -- '--> fuzz %s for %s s\n' "$target" "$FUZZ_SECONDS"
    # New inputs go to the first folder, so that the seeds in the repository stay as they are.
    cargo +nightly fuzz run "$target" "$grown" ${seeds:+"$seeds"} -- \
      -max_total_time="$FUZZ_SECONDS" -rss_limit_mb=1024 -timeout=10 -print_final_stats=1 -verbosity=0 || return 1
  done
}

step fmt cargo fmt --all -- --check
if command -v npm >/dev/null; then step web web; else skip web "npm is missing (./setup.sh installs it)"; fi
step clippy cargo clippy --workspace --all-targets --locked -- -D warnings
# With the runtime of plug-ins, built once for all tests; what is shipped without it is built below. Clippy of it takes
# five minutes more: cargo clippy -p ronchi --features plugins.
step cargo-test cargo test --workspace --features ronchi/plugins --locked --no-fail-fast
count cargo-test "$outcome"
RUSTDOCFLAGS="-D warnings" step doc cargo doc --workspace --no-deps --locked

# What is shipped, and the benchmarks, so that the smoke below starts at once; each is linked for minutes.
if step release cargo build --release --locked -p ronchi -p ronchi-benches; then
  if [ -x .venv/bin/pytest ]; then
    step pytest .venv/bin/python -B -m pytest tests/python --ignore tests/python/test_plugins.py -p no:cacheprovider -ra --durations=5
    count pytest "$outcome"
  else
    printf '\n==> pytest: .venv is missing, run ./setup.sh\n'
    results+=("pytest         FAILED  .venv is missing, run ./setup.sh")
    failed=$((failed + 1)) status=1
  fi
  if cargo run --release --locked -q -p ronchi-benches -- e2e --help >/dev/null 2>&1; then
    step bench-smoke cargo run --release --locked -q -p ronchi-benches -- e2e --quick
    step bench-reduce cargo run --release --locked -q -p ronchi-benches -- reduce --quick
  else
    results+=("bench-smoke    skipped there is no e2e benchmark")
  fi
else
  results+=("pytest         FAILED  there is no binary to test")
  failed=$((failed + 1))
fi

if [ ! -d "$(rustc --print sysroot)/lib/rustlib/wasm32-unknown-unknown" ]; then
  skip plugins "the target wasm32-unknown-unknown is missing (./setup.sh installs it)"
else
  step plugins plugins
  count plugins "$outcome"
fi

if [ ! -d fuzz ]; then
  results+=("fuzz           skipped there are no targets")
elif ! cargo +nightly --version >/dev/null 2>&1; then
  skip fuzz "there is no nightly toolchain (rustup toolchain install nightly --profile minimal)"
elif ! cargo fuzz --version >/dev/null 2>&1; then
  skip fuzz "cargo-fuzz is missing (./setup.sh installs it)"
else
  step fuzz fuzz_all
fi

printf '\n==> summary after %d s\n' "$SECONDS"
printf '  %s\n' "${results[@]}"
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
exit "$status"
