package scenarios

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// deafServices is the number of services that the managers send to the deaf worker in every
	// session, and deafBytes the size of the variables of each.
	deafServices, deafBytes = 12, 400 << 10
	// deafTried is the number of sessions that the worker opens, and deafAllowed the number that a
	// connection has room for.
	deafTried, deafAllowed = 16, 8
	// deafMayGrow bounds the growth of a manager's memory in bytes: twice the data that is sent to
	// the sessions.
	deafMayGrow = 2 * deafAllowed * deafServices * deafBytes
	// deafAtMost bounds the life of the worker's connection once it has opened sessions.
	deafAtMost = 8 * time.Second
)

// attackDeaf opens sessions on a connection from which it never reads, while the managers have much
// to send.
func attackDeaf(t *testing.T, a *impostor) {
	var names []string
	for i := range deafServices {
		names = append(names, "told"+strconv.Itoa(i))
		file := filepath.Join(t.TempDir(), "variables")
		if err := os.WriteFile(file, []byte("LARGE="+strings.Repeat("x", deafBytes)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		a.swarm("service", "create", "--detach", "--name", names[i], "--constraint", "node.hostname=="+a.host.Name, "--env-file", file, "swarm/hello:1")
	}
	before := a.memory()
	info, err := a.info()
	if err != nil {
		t.Fatal(err)
	}
	first := info.GetState().GetSessionEpoch()
	conn, err := a.attacker(a.host).tls(t.Context(), a.hosts[0], "h2")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	framer, err := beginHTTP2(conn)
	if err != nil {
		t.Fatal(err)
	}
	_ = framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	_ = framer.WriteWindowUpdate(0, 1<<30)
	hello := &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Hello{Hello: &swarmv1.Hello{
		Description: a.description(), MachineId: a.node.GetMachineId(), Addr: a.node.GetAddr(), Port: a.node.GetPort(),
	}}}
	body, err := hello.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	message := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	opened := time.Now()
	var ended error
	for i := uint32(0); ended == nil && i < deafTried; i++ {
		<-tick.C
		ended = errors.Join(
			framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: request("/swarm.v1.Dispatcher/Session"), EndHeaders: true}),
			framer.WriteData(2*i+1, false, message))
	}
	for ended == nil && time.Since(opened) < deafAtMost {
		<-tick.C
		ended = framer.WritePing(true, [8]byte{})
	}
	if took := time.Since(opened); ended == nil {
		t.Errorf("a worker that reads nothing still has its connection after %v, want its second session to end it", took)
	} else {
		t.Logf("the connection of a worker that reads nothing ended after %v", took.Round(time.Millisecond))
	}
	began := time.Now()
	if out, err := a.run("service", "create", "--name", "others", "--constraint", "node.hostname!="+a.host.Name, "--replicas", "3", "swarm/hello:1"); err != nil {
		t.Errorf("create a service for other nodes: %v, %s", err, out)
	}
	if info, err = a.info(); err != nil {
		t.Fatal(err)
	}
	sessions, grown := info.GetState().GetSessionEpoch()-first, a.memory()-before
	t.Logf("a worker that reads nothing opened %d of %d sessions: the managers grew by %d MiB, a service of others took %v",
		sessions, deafTried, grown>>20, time.Since(began).Round(time.Millisecond))
	if sessions == 0 || sessions > deafAllowed || grown > deafMayGrow {
		t.Errorf("%d sessions of a worker that reads nothing, the managers grew by %d MiB; want %d sessions and %d MiB at most",
			sessions, grown>>20, deafAllowed, deafMayGrow>>20)
	}
	a.swarm(append([]string{"service", "rm", "others"}, names...)...)
}
