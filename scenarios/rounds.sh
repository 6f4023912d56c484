#!/usr/bin/env bash
# Runs the scenarios COUNT times and prints one line for each round. It skips rounds that have
# already passed with the same program and tests, so a stopped run continues when it is started
# again. It stops at the first failure and keeps its output.
set -euo pipefail
cd "$(dirname "$0")/.."
run=$1 count=$2 parallel=$3
state=build/rounds
key=$(cat bin/swarm scenarios/*.go scenarios/*.txtar | sha256sum | cut -c1-16)-$(printf %s "$run" | sha256sum | cut -c1-8)
mkdir -p "$state"
touch "$state/$key"
while done=$(wc -l <"$state/$key"); [ "$done" -lt "$count" ]; do
	round=$((done + 1))
	begin=$SECONDS
	if ! go test -count=1 -timeout 20m -parallel "$parallel" -run "TestScenario/$run" ./scenarios >"$state/last.log" 2>&1; then
		cp "$state/last.log" "$state/failed-$key-$round.log"
		grep -E '^ *--- FAIL|FAIL:' "$state/last.log" || true
		echo "round $round of $count: FAILED after $((SECONDS - begin)) s: $state/failed-$key-$round.log"
		exit 1
	fi
	echo "round $round: ok, $((SECONDS - begin)) s" | tee -a "$state/$key"
done
echo "$count rounds passed"
