#!/bin/sh
# Runs the tests that need a real API server, and nothing else of Kubernetes: CEL validation, controller.
# usage: scripts/test-api.sh [LAB_DIR]
set -eu
cd "$(dirname "$0")/.."
dir=${1:-$PWD/.lab}
name=api$(($$ % 1000000))

down() { bin/lab apiserver down --dir "$dir" --name "$name" >/dev/null || true; }
trap down EXIT
trap 'exit 1' INT TERM

out=$(bin/lab apiserver up --dir "$dir" --name "$name")
KUBECONFIG_APISERVER=$(printf '%s\n' "$out" | sed -n 's/^export KUBECONFIG=//p')
export KUBECONFIG_APISERVER
# -p 1: the packages share one API server.
go test -count=1 -p 1 -tags apiserver ./api/... ./controller/...
