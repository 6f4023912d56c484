package task_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"swarm/cli/clitest"
	"swarm/internal/eventually"
	swarmv1 "swarm/proto/swarm/v1"
)

// echoForward is a task that answers with "eof" and its input after the input has ended. On port 81
// no program listens.
func echoForward(stream swarmv1.Control_PortForwardServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetStart().GetPort() == 81 {
		return errdefs.ErrFailedPrecondition.WithMessage("nothing listens on port 81")
	}
	if err := stream.Send(&swarmv1.ForwardOutput{Message: &swarmv1.ForwardOutput_Connected{Connected: true}}); err != nil || first.GetStart().GetPort() == 0 {
		return err
	}
	in := []byte("eof")
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		in = append(in, m.GetData()...)
	}
	if err := stream.Send(&swarmv1.ForwardOutput{Message: &swarmv1.ForwardOutput_Data{Data: in}}); err != nil {
		return err
	}
	return stream.Send(&swarmv1.ForwardOutput{Message: &swarmv1.ForwardOutput_End{End: true}})
}

// freeAddress returns an address on which nothing listens.
func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestForward_CarriesConnections(t *testing.T) {
	s := clitest.WebServer(t, time.Now())
	s.OnForward = echoForward
	ctx, cancel := context.WithCancel(t.Context())
	good, bad := freeAddress(t), freeAddress(t)
	done := make(chan clitest.Result, 1)
	go func() {
		done <- clitest.Run{Server: s}.RunContext(ctx, t, "port-forward", "web", good+":80", bad+":81")
	}()
	eventually.Nil(t, "a connection is accepted", func() error {
		conn, err := net.Dial("tcp", good)
		if err == nil {
			conn.Close()
		}
		return err
	})
	large := strings.Repeat("0123456789", 100_000)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			conn, err := net.Dial("tcp", good)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, large); err != nil {
				t.Error(err)
			}
			_ = conn.(*net.TCPConn).CloseWrite()
			if got, err := io.ReadAll(conn); string(got) != "eof"+large || err != nil {
				t.Errorf("got %d bytes, %v; want the answer after the end of the input", len(got), err)
			}
		})
	}
	all.Wait()
	conn, err := net.Dial("tcp", bad)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); len(got) != 0 || err != nil {
		t.Errorf("got %q, %v from a port on which nothing listens", got, err)
	}
	cancel()
	got := <-done
	if got.Code != 130 || got.Out != good+" -> 80\n"+bad+" -> 81\n" ||
		!strings.HasPrefix(got.ErrOut, "connection from 127.0.0.1:") || strings.Count(got.ErrOut, "\n") != 1 || !strings.Contains(got.ErrOut, "nothing listens on port 81") {
		t.Errorf("got %+v", got)
	}
}

func TestForward_Refuses(t *testing.T) {
	s := clitest.WebServer(t, time.Now())
	s.OnForward = echoForward
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	clitest.Refused(t, "port in use", clitest.Run{Server: s}.Run(t, "port-forward", "web", ":80", l.Addr().String()+":80"), "address already in use: choose another local port")
	s.OnForward = func(swarmv1.Control_PortForwardServer) error { return clitest.NotFound("task or service", "nope") }
	clitest.Refused(t, "no task", clitest.Run{Server: s}.Run(t, "port-forward", "nope", "80"), "task or service nope: not found")
}
