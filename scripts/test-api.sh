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
packages=$(grep -rl --include='*_test.go' '^//go:build apiserver' agent api cmd controller delegate ipam nad | xargs -n 1 dirname | sort -u | sed 's|^|./|')
# -p 1: the packages share one API server.
# shellcheck disable=SC2086 # a list of names
go test -count=1 -p 1 -tags apiserver $packages
