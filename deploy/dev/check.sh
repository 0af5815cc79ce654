#!/bin/bash
# Every check that needs no root: all are run, all findings shown, status 1 if any found something. --fix formats in place.
set -uo pipefail
cd "$(dirname "$0")/../.."
bin=.venv/bin failed=()

run() {   # run NAME COMMAND…
    local name=$1; shift
    printf '== %s\n' "$name"
    "$@" || failed+=("$name")
}

c_sources() { git ls-files -co --exclude-standard 'bpf/*.c' 'bpf/*.h'; }
c_format() { local files; mapfile -t files < <(c_sources); [ ${#files[@]} = 0 ] || "$bin/clang-format" "$@" "${files[@]}"; }

if [ "${1:-}" = --fix ]; then
    run "ruff format" "$bin/ruff" format -q .
    run "ruff check" "$bin/ruff" check -q --fix .
    run clang-format c_format -i
else
    run "ruff format" "$bin/ruff" format --check -q .
    run "ruff check" "$bin/ruff" check -q .
    run clang-format c_format --dry-run -Werror
    run mypy "$bin/mypy"
    run "import contracts and shape of the house" "$bin/python" -m pytest -q tests/architecture
fi

[ ${#failed[@]} = 0 ] || { printf 'check: found something: %s\n' "$(IFS=,; echo "${failed[*]}")" >&2; exit 1; }
