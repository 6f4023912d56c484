#!/usr/bin/env bash
# Shows swarm in a minute: five hosts on this machine (network namespaces), of which three are
# managers, the project's own test image, and ten replicas that answer HTTP on every host. Then the
# leader's host loses its power. The script leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/bin:$PATH
name=demo

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }
cleanup() {
	status=$?
	say "Cleaning up"
	swarm dev down --name $name || status=1
	swarm dev down --name $name || status=1
	left=$( { pgrep -af "/swarm-dev/$name/" || true; grep -E "swarm-dev/$name[ /]" /proc/self/mounts || true; find /sys/fs/cgroup -maxdepth 3 -type d -name "swarm-$name-*" 2>/dev/null || true; ls -d /run/swarm-dev/$name /var/lib/swarm-dev/$name 2>/dev/null || true; } )
	if [ -n "$left" ]; then
		printf 'left behind:\n%s\n' "$left"
		status=1
	else
		echo "nothing is left: no namespace, mount, process, cgroup or container"
	fi
	if [ $status = 0 ]; then echo "demo: passed in $SECONDS s"; else echo "demo: FAILED"; fi
	exit $status
}
trap cleanup EXIT

# get HOST:PORT sends one HTTP request with bash alone, which every machine has.
get() {
	exec 3<>"/dev/tcp/${1%:*}/${1#*:}"
	printf 'GET / HTTP/1.0\r\n\r\n' >&3
	tail -n 1 <&3
	exec 3>&-
}
at() { swarm dev ls --name $name --format "{{.Name}} {{.$2}}" | awk -v h="$1" '$1 == h { print $2 }'; }

say "Five hosts, three of them managers"
show swarm dev up --name $name --nodes 5 --managers 3
first=$(swarm dev ls --name $name --format '{{.Name}}' | sed -n 1p)
export SWARM_HOST=unix://$(at "$first" Socket)
show swarm node ls

say "An image of the project's own, without a registry"
show swarm image load -i build/hello.tar

say "A network between the hosts; ten replicas on it, published on every host"
show swarm network create backend
show swarm service create --name web --replicas 10 --network backend --publish 8080:8080 swarm/hello:1
show swarm service ls

say "Every host answers"
everywhere() {
	swarm dev ls --name $name --format '{{.Name}} {{.Address}} {{.State}}' | while read -r host address state; do
		[ "$state" = running ] || continue
		answer=$(get "$address:8080")
		[[ $answer == "hello from"* ]] || { echo "$host: $address:8080 answered: $answer"; exit 1; }
		echo "$host  $address:8080  $answer"
	done
}
everywhere
task=$(swarm service ps web --filter desired-state=running -q | sed -n 1p)
say "Replicas find each other by name"
show swarm exec "$task" /app -get http://web:8080/

leader=$(swarm node ls --format '{{.Hostname}} {{.ManagerStatus}}' | awk '$2 == "Leader" { print $1 }')
say "The leader's host, $leader, loses its power"
other=$(swarm dev ls --name $name --format '{{.Name}} {{.Role}}' | awk -v l="$leader" '$1 != l && $2 == "manager" { if (!n++) print $1 }')
export SWARM_HOST=unix://$(at "$other" Socket)
began=$(date +%s%N)
show swarm dev kill --name $name "$leader"
until [ "$(swarm service ps web --filter desired-state=running --format '{{.Node}} {{.CurrentState}}' 2>/dev/null | grep -v "^$leader " | grep -c ' Running')" = 10 ]; do
	if [ $(($(date +%s%N) - began)) -gt 60000000000 ]; then
		show swarm service ps web
		echo "not all replicas run again after 60 s"
		exit 1
	fi
	sleep 0.1
done
took=$(($(date +%s%N) - began))
show swarm node ls
show swarm service ps web --filter desired-state=running
printf '\nall ten replicas RUNNING on the other hosts %d.%01d s after the leader was lost\n' $((took / 1000000000)) $((took / 100000000 % 10))

say "Every host that is left answers"
everywhere
