package cli_test

import (
	"strings"
	"testing"
	"time"
)

func TestFilterMembership(t *testing.T) {
	s := &fakeServer{nodes: testNodes()}
	for _, value := range []string{"pending", "nonsense"} {
		refused(t, value, run{server: s}.run(t, "node", "ls", "--filter", "membership="+value), "use accepted")
	}
	if got := (run{server: s}).run(t, "node", "ls", "-q", "--filter", "membership=accepted"); got.code != 0 || strings.Count(got.out, "\n") != len(s.nodes) {
		t.Errorf("accepted: got %+v", got)
	}
}

// "table" names the default format: it is the same to the last character.
func TestFormatTableIsTheDefault(t *testing.T) {
	now := time.Now()
	for _, args := range [][]string{{"service", "ls"}, {"service", "ps", "web"}, {"node", "ls"}, {"task", "ls"}, {"image", "ls"}, {"network", "ls"}, {"credential", "ls"}} {
		r := run{server: webServer(t, now), now: now}
		plain, table := r.run(t, args...), r.run(t, append(args, "--format", "table")...)
		if plain.code != 0 || plain != table {
			t.Errorf("%v: got\n%+v\nwith --format table\n%+v", args, plain, table)
		}
	}
}
