package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	"swarm/internal/eventually"
	"swarm/internal/pki"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

var update = flag.Bool("update", false, "rewrite docs/protocols.md and testdata/wrong.txt")

const protocolsDoc = "../../docs/protocols.md"

// tls opens a TLS connection without verifying the server, as any stranger can.
func (r *protocolRig) tls(role, alpn string, cred pki.Credential) (*tls.Conn, error) {
	raw, err := net.Dial("tcp", r.addrs[role])
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
	conn := tls.Client(raw, r.config(alpn, cred))
	return conn, conn.Handshake()
}

func (r *protocolRig) config(alpn string, cred pki.Credential) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, InsecureSkipVerify: true}
	if cred.Cert != nil {
		config.Certificates = []tls.Certificate{cred.TLS()}
	}
	return config
}

// admitted reports whether a caller may have a connection.
func (r *protocolRig) admitted(role, alpn string, c protocolCaller) bool {
	r.t.Helper()
	conn, err := r.tls(role, alpn, c.of(alpn))
	if err != nil {
		return false
	}
	defer conn.Close()
	if alpn == protoRoots {
		return len(conn.ConnectionState().PeerCertificates) > 1
	}
	_, err = conn.Read(make([]byte, 1)) // the byte that greet sends, or the first byte of HTTP/2
	if err != nil && !errors.Is(err, io.EOF) && !isClosed(err) {
		r.t.Errorf("%s at a %s's %s: %v", c.name, role, alpn, err)
	}
	return err == nil
}

// protoRoots is the ALPN protocol of transport.PinnedBootstrap.
const protoRoots = "swarm-roots/1"

func isClosed(err error) bool {
	return strings.Contains(err.Error(), "reset") || strings.Contains(err.Error(), "remote error: tls")
}

// letThrough reports whether a caller's call reaches its handler.
func (r *protocolRig) letThrough(conn *grpc.ClientConn, what, method string) bool {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err == nil {
		err = stream.RecvMsg(&emptypb.Empty{})
	}
	switch code := status.Code(err); code {
	case codes.Unimplemented:
		return true
	case codes.PermissionDenied, codes.Unauthenticated, codes.Unavailable:
		return false
	default:
		r.t.Errorf("%s calls %s: %v", what, method, err)
		return false
	}
}

// walk returns the table of one kind of node, with a line for each protocol and RPC and a cell for
// each caller. A protocol or RPC that is refused to all callers has no line.
func (r *protocolRig) walk(role string) string {
	r.t.Helper()
	var out strings.Builder
	fmt.Fprint(&out, "| |")
	for _, c := range r.callers {
		fmt.Fprintf(&out, " %s |", c.name)
	}
	fmt.Fprintf(&out, "\n|---|%s\n", strings.Repeat("---|", len(r.callers)))
	row := func(name string, cell func(protocolCaller) bool) {
		line, any := fmt.Sprintf("| `%s` |", name), false
		for _, c := range r.callers {
			yes := " "
			if cell(c) {
				yes, any = " yes ", true
			}
			line += yes + "|"
		}
		if any {
			fmt.Fprintln(&out, line)
		}
	}
	for _, alpn := range []string{protoRoots, transport.ProtoGRPC, transport.ProtoRaft, transport.ProtoBlob} {
		row(alpn, func(c protocolCaller) bool { return r.admitted(role, alpn, c) })
	}
	conns := map[string]*grpc.ClientConn{}
	for _, c := range r.callers {
		conn, err := grpc.NewClient("passthrough:///"+r.addrs[role], grpc.WithNoProxy(), grpc.WithTransportCredentials(credentials.NewTLS(r.config(transport.ProtoGRPC, c.cred))))
		if err != nil {
			r.t.Fatal(err)
		}
		defer conn.Close()
		conns[c.name] = conn
	}
	// The calls run in parallel. Before the manager refuses a revoked credential it catches up with
	// the leader, at most once a second.
	var calls sync.WaitGroup
	answers := map[string]*atomic.Bool{} // by method and caller
	for _, method := range allMethods() {
		for _, c := range r.callers {
			answer := &atomic.Bool{}
			answers[method+" "+c.name] = answer
			calls.Go(func() { answer.Store(r.letThrough(conns[c.name], c.name, method)) })
		}
	}
	calls.Wait()
	for _, method := range allMethods() {
		row(strings.TrimPrefix(method, "/swarm.v1."), func(c protocolCaller) bool { return answers[method+" "+c.name].Load() })
	}
	return out.String()
}

// allMethods returns the methods of all services, except for the service that is used only inside
// one host.
func allMethods() (out []string) {
	protoregistry.GlobalFiles.RangeFilesByPackage("swarm.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			if name := string(f.Services().Get(i).Name()); name != "Resolver" {
				for _, m := range methodsOf(name) {
					out = append(out, "/swarm.v1."+name+"/"+m)
				}
			}
		}
		return true
	})
	slices.Sort(out)
	return out
}

// TestProtocols calls every protocol and RPC of a manager and of a worker as every kind of caller.
// The answers must be those in docs/protocols.md.
func TestProtocols(t *testing.T) {
	r := newProtocolRig(t)
	r.await()
	text, err := os.ReadFile(protocolsDoc)
	if err != nil {
		t.Fatal(err)
	}
	doc := string(text)
	for _, role := range []string{"manager", "worker"} {
		begin, end := "<!-- walk of a "+role+" -->\n", "<!-- end -->"
		before, rest, ok := strings.Cut(doc, begin)
		was, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("%s has no table between %q and %q", protocolsDoc, begin, end)
		}
		got := r.walk(role)
		if got != was && !*update {
			t.Errorf("a %s does not do what %s says (look, and run with -update):\n%s", role, protocolsDoc, differing(was, got))
		}
		doc = before + begin + got + end + after
	}
	if *update {
		if err := os.WriteFile(protocolsDoc, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// await returns once both daemons decide on callers.
func (r *protocolRig) await() {
	r.t.Helper()
	for role := range r.addrs {
		eventually.Nil(r.t, "the "+role+" takes connections", func() error {
			conn, err := r.tls(role, protoRoots, pki.Credential{})
			if err == nil {
				_ = conn.Close()
			}
			return err
		})
	}
	eventually.True(r.t, "the manager judges", func() bool { return r.admitted("manager", transport.ProtoRaft, r.caller("manager")) })
}

// open opens a connection that the test keeps.
func (r *protocolRig) open(role, alpn string, c protocolCaller) *tls.Conn {
	r.t.Helper()
	conn, err := r.tls(role, alpn, c.of(alpn))
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if err != nil {
		r.t.Fatalf("%s at a %s: %v", alpn, role, err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// closed waits for the end of a connection.
func closed(t *testing.T, what string, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s is open after 20s", what)
	}
}

// stillOpen fails if a connection has ended.
func stillOpen(t *testing.T, what string, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: got %v, want it open", what, err)
	}
}

// TestProtocols_CloseWhatIsOpen checks that the end of a role, of a membership or of a key closes
// the connections that depend on it, and no others.
func TestProtocols_CloseWhatIsOpen(t *testing.T) {
	r := newProtocolRig(t)
	r.await()
	c := r.node(swarmv1.NodeSpec_MANAGER, time.Hour)
	id := idOfCert(c.cred)
	row := func() *swarmv1.Node {
		n, _ := r.store.View().Nodes.Get(id)
		return n.CloneVT()
	}
	rekey := func(key []byte) {
		t.Helper()
		n := row()
		n.PublicKey = key
		r.commit(table.Update(n))
		r.told["worker"].Apply([]*swarmv1.AssignmentChange{{Change: &swarmv1.AssignmentChange_Put{Put: &swarmv1.Assignment{
			Object: &swarmv1.Assignment_Peering{Peering: &swarmv1.Peering{NodeId: id, PublicKeys: [][]byte{key}}},
		}}}})
	}
	key := c.cred.Cert.RawSubjectPublicKeyInfo
	rekey(key)
	r.hooks["worker"].OnNode(&swarmv1.NodeUpdate{Managers: []*swarmv1.Peer{{NodeId: id, Addr: "127.0.0.1", Port: 1}}})

	raft := r.open("manager", transport.ProtoRaft, c)
	blob, blobOfWorker := r.open("manager", transport.ProtoBlob, c), r.open("worker", transport.ProtoBlob, c)
	conn, err := grpc.NewClient("passthrough:///"+r.addrs["worker"], grpc.WithNoProxy(), grpc.WithTransportCredentials(credentials.NewTLS(r.config(transport.ProtoGRPC, c.cred))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	logs, err := conn.NewStream(metadata.AppendToOutgoingContext(t.Context(), holdOn, "1"), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/swarm.v1.Worker/Logs")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := logs.Header(); err != nil {
		t.Fatal("a manager that reads logs: ", err)
	}

	ended := make(chan error, 1)
	go func() { ended <- logs.RecvMsg(&emptypb.Empty{}) }()

	// The node renews with another key, and the old key is forgotten. This closes blob connections
	// of the old key. Raft connections and streams of the node go on.
	rekey([]byte("newer"))
	closed(t, "the blob connection of a key that was replaced", blob)
	closed(t, "the blob connection of a key that was replaced, at a worker", blobOfWorker)
	stillOpen(t, "the Raft connection of a node that renewed its certificate", raft)
	select {
	case err := <-ended:
		t.Errorf("the renewal cut a stream of its node: %v", err)
	default:
	}
	rekey(key)
	blob, blobOfWorker = r.open("manager", transport.ProtoBlob, c), r.open("worker", transport.ProtoBlob, c)

	demoted := row()
	demoted.Spec.Role = swarmv1.NodeSpec_WORKER
	r.commit(table.Update(demoted))
	closed(t, "the Raft connection of a manager that was demoted", raft)
	stillOpen(t, "the blob connection of a node that was demoted", blob)
	r.hooks["worker"].OnNode(&swarmv1.NodeUpdate{Managers: []*swarmv1.Peer{{NodeId: idOfCert(r.caller("manager").cred), Addr: "127.0.0.1", Port: 1}}})
	if err := <-ended; status.Code(err) != codes.Unavailable {
		t.Errorf("a former manager goes on reading logs: %v", err)
	}
	stillOpen(t, "the blob connection of a node that was demoted, at a worker", blobOfWorker)

	r.commit(table.Delete(row()))
	closed(t, "the blob connection of a node that was removed", blob)
	r.told["worker"].Apply([]*swarmv1.AssignmentChange{{Change: &swarmv1.AssignmentChange_Remove{
		Remove: &swarmv1.AssignmentRef{Kind: swarmv1.AssignmentRef_PEERING, Id: id},
	}}})
	closed(t, "the blob connection of a node that was removed, at a worker", blobOfWorker)
}

// differing returns the lines that differ.
func differing(want, got string) string {
	var out strings.Builder
	for _, l := range strings.Split(want, "\n") {
		if !strings.Contains(got, l) {
			fmt.Fprintln(&out, "- ", l)
		}
	}
	for _, l := range strings.Split(got, "\n") {
		if !strings.Contains(want, l) {
			fmt.Fprintln(&out, "+ ", l)
		}
	}
	return out.String()
}
