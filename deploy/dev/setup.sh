#!/bin/bash
# Brings a Debian 12 or Ubuntu 24.04 machine to where Kilim runs from this checkout. Idempotent: each stage first asks
# whether its work is done, so that a run with nothing to do takes a fraction of a second. Output of the tools that it
# calls goes to build/setup.log; the terminal gets one line a stage.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD log=$PWD/build/setup.log stamp=.venv/.kilim-setup
mkdir -p build
exec 9>build/.setup.lock && flock 9

say() { printf '%s\n' "setup: $*"; }
die() { printf '%s\n' "setup: $*" >&2; exit 1; }
quietly() {   # quietly WHAT COMMAND…: the log gets the output; a failure shows its end
    local what=$1; shift
    if ! "$@" >"$log" 2>&1 </dev/null; then
        tail -n 15 "$log" >&2
        die "$what failed (all of its output: $log)"
    fi
}
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# --- system packages ---

installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = "ii " ]; }
available() { [[ $(apt-cache policy "$1" 2>/dev/null) =~ Candidate:\ [0-9] ]]; }

missing_packages() {
    local package
    for package in libbpf1 libbpf-dev linux-libc-dev iproute2 etcd-server; do
        installed "$package" || echo "$package"
    done
    command -v clang-19 >/dev/null || command -v clang >/dev/null || echo clang
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo venv
}

# What missing things are called in this distribution's archive, one a line; fails at one that it does not have.
packages_for() {
    local thing name names
    for thing; do
        case $thing in
            clang)   names="clang-19 clang" ;;
            venv)    names="$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])') python3-venv" ;;
            *)       names=$thing ;;
        esac
        for name in $names none; do
            if available "$name"; then break; fi
        done
        if [ "$name" = none ]; then echo "$thing"; return 1; fi
        echo "$name"
    done
}

# Debian's etcd-server starts a server on 2379 when it is installed. We start our own and want none of it, and a server
# that runs there already is not ours to touch: policy-rc.d says "start nothing" for as long as apt runs.
install_packages() {
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        as_root sh -c "printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy"
        trap "as_root rm -f $policy" EXIT
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "$@"
}

system_packages() {
    local missing packages list
    missing=$(missing_packages)
    [ -n "$missing" ] || return 0
    list=${missing//$'\n'/, }
    command -v apt-get >/dev/null || die "needs $list and finds no apt-get to install them with"
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || die "needs root (or sudo) to install $list"
    say "installing system packages: $list"
    # The second try is for lists that are absent or have gone stale: packages move on in the archive.
    if ! packages=$(packages_for $missing) || ! (install_packages $packages) >"$log" 2>&1 </dev/null; then
        quietly "apt-get update" as_root apt-get update
        packages=$(packages_for $missing) || die "the package archive of this system has no ${packages##*$'\n'}"
        quietly "apt-get install" install_packages_apart $packages
    fi
}
install_packages_apart() { (install_packages "$@"); }         # in a shell of its own, for its EXIT trap

# --- virtual environment ---

inputs() {
    sha256sum pyproject.toml setup.py | sha256sum | cut -c1-64
    echo "$root $python"
}

virtual_environment() {
    local wanted
    wanted=$(inputs)
    if [ -x .venv/bin/kilim ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return 0; fi
    if [ ! -x .venv/bin/pip ]; then
        say "making the virtual environment .venv"
        quietly "python -m venv" "$python" -m venv --clear .venv
    fi
    say "installing Kilim and its Python packages"
    quietly "pip install" .venv/bin/pip install --disable-pip-version-check --no-input -q -e '.[dev]'
    printf '%s\n' "$wanted" >"$stamp"
}

# --- BPF objects ---

bpf_objects() {
    if make -s -q -C bpf >/dev/null 2>&1; then return 0; fi
    say "compiling the BPF objects"
    quietly "make -C bpf" make -C bpf
}

python=$(deploy/dev/find_python.sh) || die "Python 3.11 or newer is missing"
system_packages
virtual_environment
bpf_objects
