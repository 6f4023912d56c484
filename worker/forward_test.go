package worker_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"swarm/worker/simulated"

	swarmv1 "swarm/proto/swarm/v1"
)

// tcpPair returns the two ends of a TCP connection.
func tcpPair(t *testing.T) (client, server net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// forwarding starts a worker with a task, and returns a stream that is connected to the returned
// connection of the program in the task.
func forwarding(t *testing.T, ctx context.Context) (swarmv1.Worker_PortForwardClient, net.Conn) {
	near, program := tcpPair(t)
	r := newRig(t, simulated.Config{Dial: func(context.Context, string, uint16) (net.Conn, error) { return near, nil }}, "m1")
	t.Cleanup(r.close)
	m := r.managers["m1"]
	m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
	r.start()
	m.waitState("t1", running)
	stream, err := r.client().PortForward(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&swarmv1.ForwardInput{Message: &swarmv1.ForwardInput_Start{Start: &swarmv1.ForwardStart{TaskId: "t1", Port: 80}}}); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || !m.GetConnected() {
		t.Fatalf("got %v, %v; want connected", m, err)
	}
	return stream, program
}

// The program answers after the caller has closed its direction, and the stream ends without error.
func TestWorker_ForwardHalfClose(t *testing.T) {
	stream, program := forwarding(t, t.Context())
	if err := stream.Send(&swarmv1.ForwardInput{Message: &swarmv1.ForwardInput_Data{Data: []byte("in")}}); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if in, err := io.ReadAll(program); string(in) != "in" || err != nil {
		t.Fatalf("the program read %q, %v", in, err)
	}
	large := strings.Repeat("x", 1<<20)
	if _, err := io.WriteString(program, large); err != nil {
		t.Fatal(err)
	}
	program.Close()
	n, ended := 0, false
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n += len(m.GetData())
		ended = ended || m.GetEnd()
	}
	if n != len(large) || !ended {
		t.Errorf("got %d bytes and end %t, want %d and true", n, ended, len(large))
	}
}

// The program sees the end of the connection when its caller disappears.
func TestWorker_ForwardEndsWithItsCaller(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, program := forwarding(t, ctx)
	cancel()
	if in, err := io.ReadAll(program); len(in) != 0 {
		t.Errorf("the program read %q, %v", in, err)
	}
}
