#!/bin/sh
# Regenerates the committed stubs beside the .proto files, with the pinned tools of the dev extra.
# OUT=DIR writes them below DIR/kilim instead, for the comparison in tests/architecture.
set -eu
cd "$(dirname "$0")/../.."
bin=${BIN:-.venv/bin} out=${OUT:-src}
PATH="$bin:$PATH" "$bin/python" -m grpc_tools.protoc -I proto --python_out="$out" --mypy_out=quiet:"$out" \
    --grpc_python_out="$out" --mypy_grpc_out=quiet:"$out" $(cd proto && find kilim -name '*.proto' | sort)
