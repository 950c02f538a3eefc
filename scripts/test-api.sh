#!/bin/sh
# Runs the tests that need a real API server, and nothing else of Kubernetes: CEL validation, controller, agent.
# usage: scripts/test-api.sh [LAB_DIR]
#
# They wait more than they compute, so five groups run side by side, each with an API server of its own; in a group the packages share
# it, one after the other. What a group says comes when it has ended.
set -eu
cd "$(dirname "$0")/.."
dir=${1:-$PWD/.lab}
name=api$(($$ % 100000))
out=$(mktemp -d)
servers=

down() {
	trap '' INT TERM # make passes on what its whole group was sent: the second would end this half way
	for server in $servers; do
		bin/lab apiserver down --dir "$dir" --name "$server" >/dev/null || true
	done
	rm -rf "$out"
}
trap down EXIT
trap 'exit 1' INT TERM

up() { # SERVER: the path of its kubeconfig
	said=$(bin/lab apiserver up --dir "$dir" --name "$1") || exit 1
	printf '%s\n' "$said" | sed -n 's/^export KUBECONFIG=//p'
}
run() { # GROUP PACKAGE… or flags
	group=$1
	shift
	if go test -count=1 -p 1 -timeout 40m -tags apiserver "$@" >"$out/$group" 2>&1; then
		echo passed >"$out/$group.end"
	fi
}

groups='a b c d e'
all=$(grep -rl --include='*_test.go' '^//go:build apiserver' agent api cmd controller delegate ipam nad | xargs -n 1 dirname | sort -u | sed 's|^|./|')
apart='./controller ./controller/hub ./controller/subnets'
rest=$(printf '%s\n' "$all" | grep -vxF "$(printf '%s\n' $apart)")

for group in $groups; do
	servers="$servers $name$group"
	kubeconfig=$(up "$name$group")
	eval "kubeconfig_$group=\$kubeconfig"
done
# A hub and a second member beside it, for the one package that is about several clusters. The tests kill the hub and start it.
servers="$servers ${name}m ${name}h"
KUBECONFIG_APISERVER_B=$(up "${name}m")
KUBECONFIG_APISERVER_HUB=$(up "${name}h")
LAB_APISERVER_HUB="$PWD/bin/lab --dir $dir --name ${name}h"
export KUBECONFIG_APISERVER_B KUBECONFIG_APISERVER_HUB LAB_APISERVER_HUB

# shellcheck disable=SC2086,SC2154 # lists of names; set by eval
{
	KUBECONFIG_APISERVER=$kubeconfig_a run a -skip '^TestNetspace' ./controller &
	KUBECONFIG_APISERVER=$kubeconfig_d run d -run '^TestNetspace' ./controller &
	KUBECONFIG_APISERVER=$kubeconfig_b run b ./controller/subnets &
	KUBECONFIG_APISERVER=$kubeconfig_c run c $rest &
	KUBECONFIG_APISERVER=$kubeconfig_e run e ./controller/hub &
	wait
}
failed=
for group in $groups; do
	if [ -e "$out/$group.end" ]; then
		cat "$out/$group"
	else
		failed="$failed $group"
	fi
done
for group in $failed; do # last, where it is seen
	cat "$out/$group"
done
[ -z "$failed" ]
