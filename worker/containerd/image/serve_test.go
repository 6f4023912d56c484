//go:build linux

package image

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener on connections in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{} }

// A node that takes nothing is not served for ever; one that is slow gets all.
func TestSend_EndsWhenNothingIsTaken(t *testing.T) {
	blob := bytes.Repeat([]byte("layer"), 100<<10)
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan time.Duration, 2)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			began := time.Now()
			giveTime(w)
			send(w, r, bytes.NewReader(blob))
			ended <- time.Since(began)
		})}
		conns := make(pipes)
		served := make(chan error, 1)
		go func() { served <- server.Serve(conns) }()
		ask := func() net.Conn {
			c, s := net.Pipe()
			conns <- s
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			return c
		}

		idle := ask()
		defer idle.Close()
		if took := <-ended; took != takePatience {
			t.Errorf("a node that takes nothing was served for %v, want %v", took, takePatience)
		}

		slow := ask()
		defer slow.Close()
		for range 2 { // The second request comes long after the deadline of the first.
			r, err := http.ReadResponse(bufio.NewReaderSize(slow, 16), nil)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			for err == nil {
				time.Sleep(takePatience / 3)
				_, err = io.CopyN(&got, r.Body, 20<<10)
			}
			if !bytes.Equal(got.Bytes(), blob) {
				t.Errorf("a slow node got %d of %d bytes, %v", got.Len(), len(blob), err)
			}
			<-ended
			time.Sleep(10 * takePatience)
			if _, err := io.WriteString(slow, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
		}
		slow.Close()
		<-ended
		close(conns)
		<-served
	})
}
