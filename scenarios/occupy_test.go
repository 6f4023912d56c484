package scenarios

import (
	"io"
	"net"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// occupy HOST PORT[/udp] has another program listen on a port of a host. `occupy -stop HOST PORT`
// stops that program.
func cmdOccupy(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts)
	if len(args) == 3 && args[0] == "-stop" {
		at := args[1] + " " + args[2]
		if s.occupied[at] == nil {
			ts.Fatalf("port %s of %s is not occupied", args[2], args[1])
		}
		ts.Check(s.occupied[at].Close())
		delete(s.occupied, at)
		return
	}
	if len(args) != 2 {
		ts.Fatalf("usage: occupy [-stop] HOST PORT")
	}
	var l io.Closer
	ts.Check(playground(ts).Do(args[0], func() (err error) {
		if port, udp := strings.CutSuffix(args[1], "/udp"); udp {
			l, err = net.ListenPacket("udp", ":"+port)
			return err
		}
		l, err = net.Listen("tcp", ":"+args[1])
		return err
	}))
	if s.occupied == nil {
		s.occupied = map[string]io.Closer{}
	}
	s.occupied[args[0]+" "+args[1]] = l
	ts.Defer(func() { _ = l.Close() }) // Close may be called twice.
}
