#!/bin/sh
# Regenerates the committed stubs beside the .proto files, with the pinned tools of the dev extra.
set -eu
cd "$(dirname "$0")/../.."
bin=${BIN:-.venv/bin}
PATH="$bin:$PATH" "$bin/python" -m grpc_tools.protoc -I proto --python_out=src --mypy_out=src \
    --grpc_python_out=src --mypy_grpc_out=src $(cd proto && find kilim -name '*.proto' | sort)
