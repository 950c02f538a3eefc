#!/bin/sh
# Runs the tests that need a real API server, and nothing else of Kubernetes: CEL validation, controller.
# usage: scripts/test-api.sh [LAB_DIR]
set -eu
cd "$(dirname "$0")/.."
dir=${1:-$PWD/.lab}
name=api$(($$ % 1000000))
servers=

up() { # SERVER: the path of its kubeconfig
	out=$(bin/lab apiserver up --dir "$dir" --name "$1") || exit 1
	printf '%s\n' "$out" | sed -n 's/^export KUBECONFIG=//p'
}
down() {
	for server in $servers; do
		bin/lab apiserver down --dir "$dir" --name "$server" >/dev/null || true
	done
}
trap down EXIT
trap 'exit 1' INT TERM

servers=$name
KUBECONFIG_APISERVER=$(up "$name")
export KUBECONFIG_APISERVER
packages=$(grep -rl --include='*_test.go' '^//go:build apiserver' agent api cmd controller delegate ipam nad | xargs -n 1 dirname | sort -u | grep -v '^controller/hub$' | sed 's|^|./|')
# -p 1: the packages share one API server.
# shellcheck disable=SC2086 # a list of names
go test -count=1 -p 1 -tags apiserver $packages

# A hub and a second member beside it, for the one package that is about several clusters. The tests kill the hub and start it.
servers="$name ${name}b ${name}h"
KUBECONFIG_APISERVER_B=$(up "${name}b")
KUBECONFIG_APISERVER_HUB=$(up "${name}h")
LAB_APISERVER_HUB="$PWD/bin/lab --dir $dir --name ${name}h"
export KUBECONFIG_APISERVER_B KUBECONFIG_APISERVER_HUB LAB_APISERVER_HUB
go test -count=1 -timeout 30m -tags apiserver ./controller/hub
