package cli_test

import (
	"strings"
	"testing"

	"swarm/cli/clitest"
)

// The codes of Docker's command line: 125 for a flag that is not known or takes no such value, else
// 1.
func TestFlagErrors_ExitCode(t *testing.T) {
	for line, want := range map[string]int{
		"service create --bogus x": 125, "service ls --bogus": 125, "service create --replicas abc x": 125, "service create --network": 125,
		"exec -z x y": 125, "service --bogus": 125, "--host": 125, "--stale=maybe service ls": 125,
		"nosuch": 1, "service nosuch": 1, "service create": 1, "node ls extra": 1,
	} {
		if got := (clitest.Run{}).Run(t, strings.Fields(line)...); got.Code != want {
			t.Errorf("%s: got %d, want %d: %s", line, got.Code, want, got.ErrOut)
		}
	}
}
