#!/usr/bin/env bash
# Runs TestRounds with ROUNDS rounds, TestSingleWriter with WRITER_ROUNDS rounds, and then the
# scenarios in random order for MINUTES. It prints the seed. SEED=n replays its order.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=$1 parallel=$2
seed=${SEED:-$RANDOM}
echo "seed $seed"
RANDOM=$seed
mapfile -t names < <(cd scenarios && ls *.txtar | sed 's/\.txtar$//')
mkdir -p build
if ! SEED=$seed ROUNDS=${ROUNDS:-500} go test -count=1 -timeout 4h -v -run 'TestRounds' ./scenarios 2>&1 | tee build/soak.log | grep --line-buffered ' rounds'; then
	cat build/soak.log
	echo "soak: rounds failed (seed $seed)"
	exit 1
fi
if ! SEED=$seed ROUNDS=${WRITER_ROUNDS:-30} go test -count=1 -timeout 2h -v -run '^TestSingleWriter$' ./scenarios 2>&1 | tee build/soak.log | grep --line-buffered 'round'; then
	cat build/soak.log
	echo "soak: single-writer rounds failed (seed $seed)"
	exit 1
fi
end=$((SECONDS + minutes * 60))
passed=0
while [ "$SECONDS" -lt "$end" ]; do
	name=${names[RANDOM % ${#names[@]}]}
	if ! go test -count=1 -timeout 10m -parallel "$parallel" -run "TestScenario/^$name\$" ./scenarios >build/soak.log 2>&1; then
		cat build/soak.log
		echo "soak: $name failed after $passed scenarios (seed $seed)"
		exit 1
	fi
	passed=$((passed + 1))
	echo "$passed $name"
done
echo "soak: $passed passed, 0 failed"
