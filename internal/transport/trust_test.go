package transport

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"swarm/internal/eventually"
)

// Peers that the cluster does not accept have the limits of strangers. Workers have those of
// workers.
func TestListener_LimitsByTrust(t *testing.T) {
	root := newRoot(t, "c1")
	for _, c := range []struct {
		name  string
		trust Trust
		most  int // the largest message, in bytes
	}{{"stranger", Stranger, strangerMessage}, {"worker", Worker, MaxWorkerMessage}, {"full", Full, maxMessage}} {
		server := startNodeWith(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{}, func(string, AuthInfo) (Trust, error) { return c.trust, nil })
		conn := must[*Conn](t)(dialer(t, identity(t, fresh(t, root, newID()), root.Cert), server).DialGRPC(server.id))
		client := healthpb.NewHealthClient(conn)
		if err := check(t, conn); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: strings.Repeat("x", c.most/2)}); err != nil {
			t.Errorf("%s sends %d bytes: %v", c.name, c.most/2, err)
		}
		if c.trust == Full {
			continue // the client has the same limit
		}
		if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: strings.Repeat("x", c.most)}); err == nil || status.Code(err) == codes.Unavailable {
			t.Errorf("%s sends %d bytes: %v, want that they are too many", c.name, c.most, err)
		}
	}
}

// The answer of a manager to a user may be larger than a message to a node.
func TestDialer_LargeAnswers(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNodeWith(t, managerIdentity(t, root, newID(), root.Cert), ListenerConfig{}, nil)
	d := dialer(t, identity(t, fresh(t, root, newID()), root.Cert), server)
	ask := &healthpb.HealthCheckRequest{Service: "large"}
	if _, err := healthpb.NewHealthClient(d.DialAddr(server.addr)).Check(t.Context(), ask); err != nil {
		t.Errorf("to a user: %v", err)
	}
	if _, err := healthpb.NewHealthClient(must[*Conn](t)(d.DialGRPC(server.id))).Check(t.Context(), ask); err == nil {
		t.Error("a node takes an answer of any size")
	}
}

// A connection ends when the trust of its peer changes. The next connection has the new limits.
func TestListener_ReviewsTrust(t *testing.T) {
	root := newRoot(t, "c1")
	var trust atomic.Int32
	trust.Store(int32(Full))
	server := startNodeWith(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{}, func(string, AuthInfo) (Trust, error) { return Trust(trust.Load()), nil })
	conn := must[*Conn](t)(dialer(t, identity(t, fresh(t, root, newID()), root.Cert), server).DialGRPC(server.id))
	for _, next := range []Trust{Stranger, Worker, Full} {
		stream := must[healthpb.Health_WatchClient](t)(healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{}))
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		trust.Store(int32(next))
		server.ln.Review()
		if _, err := stream.Recv(); err == nil {
			t.Errorf("trust %d: the connection goes on", next)
		}
		eventually.Nil(t, "it connects again", func() error { return check(t, conn) })
	}
}

// Connections with a former key of a node do not use up the limit of its current key.
func TestListener_CountsByKey(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNodeWith(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{}, func(string, AuthInfo) (Trust, error) { return Worker, nil })
	id := newID()
	old, current := fresh(t, root, id), fresh(t, root, id)
	served := 0
	for range maxWorkerConns + 4 {
		conn := must[*Conn](t)(dialer(t, identity(t, old, root.Cert), server).DialGRPC(server.id))
		if check(t, conn) == nil {
			served++
		}
	}
	if served != maxWorkerConns {
		t.Errorf("one key has %d connections, want %d", served, maxWorkerConns)
	}
	conn := must[*Conn](t)(dialer(t, identity(t, current, root.Cert), server).DialGRPC(server.id))
	if err := check(t, conn); err != nil {
		t.Errorf("the next key of the same node: %v", err)
	}
}

// A worker may have few blob connections and a manager many, because each connection that is served
// has buffers.
func TestListener_BlobsOfAWorker(t *testing.T) {
	root := newRoot(t, "c1")
	for trust, want := range map[Trust]int{Worker: maxBlobConns, Full: maxBlobConns + 4} {
		server := startNodeWith(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{}, func(string, AuthInfo) (Trust, error) { return trust, nil })
		blobs := server.ln.Blob()
		go func() {
			for conn, err := blobs.Accept(); err == nil; conn, err = blobs.Accept() {
				_, _ = conn.Write([]byte("."))
				t.Cleanup(func() { _ = conn.Close() })
			}
		}()
		d := dialer(t, identity(t, fresh(t, root, newID()), root.Cert), server)
		served := 0
		for range maxBlobConns + 4 {
			conn := must[net.Conn](t)(d.DialALPN(t.Context(), server.id, ProtoBlob))
			t.Cleanup(func() { _ = conn.Close() })
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				served++
			}
		}
		if served != want {
			t.Errorf("trust %d: one key has %d connections, want %d", trust, served, want)
		}
	}
}
