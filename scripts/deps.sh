#!/bin/sh
# Installs the Debian or Ubuntu packages that building and testing need, if any is missing; elsewhere names what is missing.
# Arguments are further needs, in the form below.
# Needs root only where something is missing.
set -eu
cd "$(dirname "$0")/.."

# command:package, or /path:package where the package has no command of its own.
needs='
	etcd:etcd-server
	containerd:containerd
	runc:runc
	iptables:iptables
	nft:nftables
	ip:iproute2
	conntrack:conntrack
	clang-14:clang-14
	llvm-strip-14:llvm-14
	gcc:gcc
	/usr/include/stdlib.h:libc6-dev
	git:git
	nsenter:util-linux
	/usr/share/doc/busybox-static/copyright:busybox-static
	hostname:hostname
	mount:mount
	pkill:procps
'
needs="$needs $*"

missing=
for n in $needs; do
	thing=${n%%:*} package=${n#*:}
	case $thing in
	/*) [ -e "$thing" ] || missing="$missing $package" ;;
	*) command -v "$thing" >/dev/null 2>&1 || [ -x "/usr/sbin/$thing" ] || missing="$missing $package" ;;
	esac
done

if [ -n "$missing" ]; then
	if ! command -v apt-get >/dev/null 2>&1; then
		echo "deps: missing (Debian's names):$missing; install them with this system's package manager" >&2
		exit 1
	fi
	if [ "$(id -u)" != 0 ]; then
		echo "deps: missing:$missing; run scripts/deps.sh as root" >&2
		exit 1
	fi
	echo "deps: installing$missing"
	export DEBIAN_FRONTEND=noninteractive
	# Services that packages would start (etcd, containerd) must not run: the lab starts its own.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
		trap 'rm -f $policy' EXIT
	fi
	# shellcheck disable=SC2086 # a list of names
	apt-get install -y -q --no-install-recommends $missing >/dev/null 2>&1 || {
		apt-get update -q
		apt-get install -y -q --no-install-recommends $missing
	}
fi

want=$(sed -n 's/^go \([0-9][0-9.]*\).*/\1/p' go.mod)
have=$(go env GOVERSION 2>/dev/null | sed 's/^go//; s/[^0-9.].*//') || have=
if [ -z "$have" ] || [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" != "$want" ]; then
	echo "deps: Go ${have:-(none)} found, but go.mod needs Go $want or later: https://go.dev/dl" >&2
	exit 1
fi
