#!/usr/bin/env bash
# Runs a test that reads ROUNDS, FROM and SEED from the environment, CHUNK rounds at a time. It
# records its progress in build/soak-TEST and continues there when it is started again. The output
# of a chunk that fails is added to build/soak-TEST.failed, and the next chunks run nevertheless.
# Remove build/soak-TEST to start from the beginning. SEED=n replays.
set -euo pipefail
cd "$(dirname "$0")/.."
test=$1 rounds=$2 chunk=${CHUNK:-10}
mkdir -p build
state=build/soak-$test log=build/soak-$test.log
if [ -e "$state" ]; then
	read -r seed next failed <"$state"
else
	seed=${SEED:-$RANDOM} next=0 failed=0
fi
echo "soak: $test, seed $seed, from round $next of $rounds"
while [ "$next" -lt "$rounds" ]; do
	n=$((rounds - next < chunk ? rounds - next : chunk))
	if ! SEED=$seed FROM=$next ROUNDS=$n go test -count=1 -timeout 1h -v -run "^$test\$" ./scenarios >"$log" 2>&1; then
		failed=$((failed + 1))
		cat "$log" >>"$state.failed"
		grep -E 'want 0|FAIL|panic' "$log" || true
	fi
	grep -E '[0-9] round|round [0-9]' "$log" || true
	next=$((next + n))
	echo "$seed $next $failed" >"$state"
done
echo "soak: $test, seed $seed: $rounds rounds, $failed of their chunks failed"
[ "$failed" = 0 ]
