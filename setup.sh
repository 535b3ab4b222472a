#!/usr/bin/env bash
# Makes a fresh Debian or Ubuntu with Rust ready to build and test ronchi. Safe to run again; what is there is kept.
set -euo pipefail
cd "$(dirname "$0")"

CARGO_FUZZ_VERSION=0.13.2
REQUIREMENTS=tests/python/requirements.txt
STRANGERS=tests/python/requirements-strangers.txt # Consumers and a simulator that need other versions than the rest.

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "needs root for: $* (not root, and sudo is missing)"
  fi
}

# A C and C++ compiler builds libzmq and compression code; Python runs the interoperability tests.
system_packages() {
  local missing=()
  command -v cc >/dev/null && command -v g++ >/dev/null && command -v make >/dev/null || missing+=(build-essential)
  command -v pkg-config >/dev/null || missing+=(pkg-config)
  command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs) # Small disks that tests fill up, cut off and freeze.
  command -v mkfs.xfs >/dev/null || missing+=(xfsprogs)
  command -v mkfs.btrfs >/dev/null || missing+=(btrfs-progs) # Its quotas: what EDQUOT does.
  ldconfig -p | grep -q libfuse3.so.3 || missing+=(libfuse3-3) # A disk that refuses: what EIO does.
  command -v promtool >/dev/null || missing+=(prometheus) # Checks alerts and the dashboard; it is not started.
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
  command -v node >/dev/null || missing+=(nodejs) # Builds the page; the binary needs it no more than Rust does.
  command -v npm >/dev/null || missing+=(npm)
  if [ ${#missing[@]} = 0 ]; then say "system packages: all present"; return; fi
  say "system packages: installing ${missing[*]}"
  command -v apt-get >/dev/null || die "no apt-get here; install by other means: ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null
}

rust() {
  command -v cargo >/dev/null || die "cargo is missing: install Rust 1.89 or newer (rustup), then run this again"
  say "$(rustc --version)"
  cargo fmt --version >/dev/null 2>&1 || die "rustfmt is missing: rustup component add rustfmt"
  cargo clippy --version >/dev/null 2>&1 || die "clippy is missing: rustup component add clippy"
}

# What plug-ins are built for; a ronchi that runs them needs Rust 1.95 or newer.
plugins() {
  if [ -d "$(rustc --print sysroot)/lib/rustlib/wasm32-unknown-unknown" ]; then say "plug-ins: their target is there"
  elif command -v rustup >/dev/null && rustup target add wasm32-unknown-unknown; then say "plug-ins: their target was installed"
  else say "plug-ins need the target wasm32-unknown-unknown, and rustup to install it"
  fi
}

fuzzing() {
  if ! cargo fuzz --version >/dev/null 2>&1; then
    say "cargo-fuzz: installing $CARGO_FUZZ_VERSION"
    cargo install --quiet --locked --version "$CARGO_FUZZ_VERSION" cargo-fuzz
  fi
  if cargo +nightly --version >/dev/null 2>&1; then
    say "fuzzing: $(cargo fuzz --version), $(rustc +nightly --version)"
  else
    say "fuzzing needs a nightly toolchain, which is missing: rustup toolchain install nightly --profile minimal"
  fi
}

# python_environment FOLDER REQUIREMENTS
python_environment() {
  local folder=$1 requirements=$2 wanted
  wanted=$(sha256sum "$requirements" | cut -d ' ' -f 1)
  if [ "$(cat "$folder/requirements.sha256" 2>/dev/null)" = "$wanted" ]; then say "Python: $folder is up to date"; return; fi
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed"
  say "Python: installing $requirements into $folder (about two minutes)"
  [ -x "$folder/bin/python" ] || python3 -m venv "$folder"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
  printf '%s\n' "$wanted" >"$folder/requirements.sha256"
}

# What the page is built and tested with; without it the committed page is served all the same.
page() {
  npm --prefix web ci --no-audit --no-fund --silent
  if command -v chromium google-chrome >/dev/null; then say "page: node $(node --version), a browser to test it in"; return; fi
  say "page: node $(node --version); installing Chromium"
  # Ubuntu has it as a snap only; there, bring a browser of your own.
  if ! { command -v apt-get >/dev/null && as_root apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium </dev/null; }; then
    say "page: no Chromium (chromium or google-chrome in PATH): its tests in the browser will be skipped"
  fi
}

system_packages
rust
page
plugins
fuzzing
python_environment .venv "$REQUIREMENTS"
python_environment .venv-strangers "$STRANGERS"
say "building the release binary"
cargo build --release --locked
say "ready: target/release/ronchi demo, or ./test.sh"
