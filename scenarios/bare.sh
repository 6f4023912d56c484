#!/usr/bin/env bash
# Tests swarm on a host with nothing else installed: Debian's minimal base, in namespaces of its
# own, and one file copied into it. The host has no ip, iptables, nft, modprobe, runc or containerd,
# and swarm runs with an empty PATH. Everything that the host starts, mounts and changes ends with
# its namespaces, except for cgroups, which the script checks. It needs root and debootstrap. It
# first builds the file from a fresh clone, on another minimal base, with the packages that README
# lists. With SWARM_BINARY it tests that file instead.
set -euo pipefail
suite=${SUITE:-bookworm}

say() { printf '\n# %s\n' "$*"; }
fail() { printf 'bare: FAILED: %s\n' "$*"; exit 1; }

# outside runs on this machine, before any namespace is made.
outside() {
	cd "$(dirname "$0")/.."
	local binary=${SWARM_BINARY:-} work status=0
	if [ ! -d build/bare-root ]; then
		say "Debian's minimal base, once"
		rm -rf build/bare-root.tmp
		debootstrap --variant=minbase "$suite" build/bare-root.tmp >build/bare-root.log || fail "debootstrap: see build/bare-root.log"
		mv build/bare-root.tmp build/bare-root
	fi
	work=$(mktemp -d /tmp/swarm-bare.XXXXXX)
	trap "rm -rf --one-file-system '$work'" EXIT
	if [ -z "$binary" ]; then
		say "A fresh clone, built on the minimal base"
		cp -a build/bare-root "$work/fresh"
		git clone -q . "$work/fresh/src"
		unshare --mount --pid --fork --kill-child "$0" compile "$work/fresh" "$(go env GOROOT)" "$(go env GOMODCACHE)" || fail "the build"
		binary=$work/fresh/src/bin/swarm
	fi
	cp -a build/bare-root "$work/root"
	install -D -m 0755 "$binary" "$work/root/usr/local/bin/swarm"
	install -m 0755 "$0" "$work/root/bare.sh"
	cp build/hello.tar "$work/root/hello.tar"
	# The process that makes the host is its process 1: when it ends, the kernel ends all others.
	unshare --mount --net --uts --ipc --pid --fork --kill-child --mount-proc "$0" boot "$work/root" || status=$?
	if grep -q "$work" /proc/self/mounts; then
		fail "mounts are left: $(grep "$work" /proc/self/mounts)"
	fi
	# The daemon's own, empty; another daemon's are not.
	rmdir /sys/fs/cgroup/swarm /sys/fs/cgroup/*/swarm 2>/dev/null || true
	exit $status
}

# compile ROOT GO MODULES runs the first build of a clone. The minimal base does not have the header
# of libseccomp. The build must stop without it. After its installation make must build a runc with
# it.
compile() {
	local root=$1
	mount --make-rprivate /
	mkdir -p "$root/go" "$root/modules"
	mount --bind "$2" "$root/go"
	mount --bind "$3" "$root/modules" # Only not to fetch them again.
	mount -t proc proc "$root/proc"
	mount --rbind /dev "$root/dev"
	cp /etc/resolv.conf "$root/etc/resolv.conf"
	chroot "$root" /usr/bin/env -i PATH=/go/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive \
		GOMODCACHE=/modules GOPROXY="${GOPROXY:-$(go env GOPROXY)}" ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
		/bin/bash -euo pipefail -c '
		fail() { printf "bare: FAILED: %s\n" "$*"; exit 1; }
		apt-get update -q >/tmp/apt.log && apt-get install -y -q --no-install-recommends gcc libc6-dev make git ca-certificates >>/tmp/apt.log || { cat /tmp/apt.log; exit 1; }
		git config --global --add safe.directory /src
		cd /src
		[ ! -e /usr/include/seccomp.h ] || fail "this base has the header of libseccomp"
		said=$(make -s build 2>&1) && fail "make build went on without libseccomp"
		[[ $said == *"make deps"* ]] || fail "make build does not say how to get libseccomp: $said"
		make deps build >/tmp/make.log 2>&1 || { tail -n 20 /tmp/make.log; exit 1; }
		bin/swarm version
		[[ $(bin/swarm version) =~ seccomp:[[:space:]]+true ]] || fail "the first build of a clone has no seccomp"
	'
}

# boot is process 1 of the new host.
boot() {
	local root=$1
	hostname bare
	ip link set lo up
	ip link add eth0 type veth peer name cable
	ip addr add 10.123.0.2/24 dev eth0
	ip link set eth0 up
	ip link set cable up
	mount --bind "$root" "$root" # A host's / is a mount; containers are made from it.
	mount -t proc proc "$root/proc"
	mount -t sysfs sysfs "$root/sys"
	mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
	mount --rbind /dev "$root/dev"
	mount -t tmpfs -o mode=755 tmpfs "$root/run"
	mount -t tmpfs tmpfs "$root/tmp"
	cd "$root"
	pivot_root . .
	umount -l .
	exec /usr/bin/env -i PATH=/nowhere HOME=/root /bin/bash /bare.sh inside
}

# get PORT sends one HTTP request with bash alone.
get() {
	exec 3<>"/dev/tcp/10.123.0.2/$1" || return
	printf 'GET / HTTP/1.0\r\n\r\n' >&3
	local line last=
	while IFS= read -r line <&3 || [ -n "$line" ]; do last=$line; done
	exec 3>&-
	printf '%s\n' "$last"
}

# running NAME prints the processes of that name. The program may have been deleted since they
# started.
running() {
	local p name
	for p in /proc/[0-9]*; do
		{ read -r name <"$p/comm"; } 2>/dev/null || continue
		[ "$name" != "$1" ] || printf '%s ' "${p#/proc/}"
	done
}

show() { printf '$ %s\n' "${*/#\/usr\/local\/bin\//}"; "$@"; }

# until_gone WHAT COMMAND... waits until the command prints nothing.
until_gone() {
	local what=$1 out= i; shift
	for ((i = 0; i < 200; i++)); do
		out=$("$@")
		[ -n "$out" ] || return 0
		read -r -t 0.1 <> <(:) || true # An interval without sleep(1).
	done
	fail "$what: still there after 20 s: $out"
}

# inside runs only bash and swarm.
inside() {
	local swarm=/usr/local/bin/swarm tool left line
	for tool in ip nft iptables modprobe runc containerd systemctl; do
		for dir in /bin /sbin /usr/bin /usr/sbin /usr/local/bin; do
			[ ! -e "$dir/$tool" ] || fail "$dir/$tool exists: this is no bare host"
		done
	done
	say "init starts the daemon by itself"
	show $swarm init 2>/tmp/said || fail "init: $(</tmp/said)"
	printf '%s\n' "$(</tmp/said)"
	[[ $(</tmp/said) =~ \(process\ ([0-9]+),\ log\ ([^\)]+)\) ]] || fail "init did not say what it started"
	local daemon=${BASH_REMATCH[1]} log=${BASH_REMATCH[2]}
	trap 'status=$?; if [ $status != 0 ]; then printf "the daemon log:\n%s\n" "$(<'"$log"')"; fi' EXIT
	[[ $(</tmp/said) != *"without a seccomp profile"* ]] || fail "init warns: $(</tmp/said)"
	show $swarm info

	say "An image from a file, a service, and its answer"
	show $swarm image load -i /hello.tar
	show $swarm service create --name web --replicas 2 --publish mode=host,target=8080 swarm/hello:1
	show $swarm service ps web
	local answers=0
	while read -r line; do
		[[ $line =~ ([0-9]+)-\> ]] || fail "no published port in: $line"
		line=$(get "${BASH_REMATCH[1]}")
		printf '%s\n' "$line"
		[[ $line == "hello from"* ]] || fail "unexpected answer"
		answers=$((answers + 1))
	done < <($swarm service ps web --format '{{.Ports}}')
	[ $answers = 2 ] || fail "$answers of 2 tasks answered"

	say "exec and logs"
	show $swarm exec web.1 /app -exit-after 1ms -exit-code 0 -listen ''
	show $swarm service logs web
	[[ $($swarm service logs web 2>&1) == *web.1* ]] || fail "no log lines"

	say "Removed, left, stopped"
	show $swarm service rm web
	until_gone "containers' processes" running app
	until_gone "tasks" $swarm task ls -q
	show $swarm leave --force
	show $swarm info --format '{{.LocalNodeState}}'
	kill "$daemon"
	kill $(running swarm) 2>/dev/null || true
	until_gone "swarm's processes" running swarm
	left=
	while read -r _ dir _; do
		case $dir in /var/lib/swarm/* | /run/swarm/*) left+="$dir " ;; esac
	done </proc/self/mounts
	[ -z "$left" ] || fail "mounts are left: $left"
	left=
	for dir in /sys/fs/cgroup{,/*}/swarm/*/; do [ ! -d "$dir" ] || left+="$dir "; done
	[ -z "$left" ] || fail "cgroups are left: $left"
	printf '\nbare: passed in %d s\n' "$SECONDS"
}

case ${1:-} in
boot) boot "$2" ;;
compile) compile "$2" "$3" "$4" ;;
inside) inside ;;
*) outside ;;
esac
