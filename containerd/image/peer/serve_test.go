//go:build linux

package peer

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/image/survey"
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

// The transfer to a node that reads nothing ends. A slow node gets everything.
func TestSend_EndsWhenNothingIsTaken(t *testing.T) {
	blob := bytes.Repeat([]byte("layer"), 100<<10)
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan time.Duration, 2)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			began := time.Now()
			extendDeadline(w)
			w.Header().Set("Content-Type", "application/octet-stream")
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
		if took := <-ended; took != takeTimeout {
			t.Errorf("a node that takes nothing was served for %v, want %v", took, takeTimeout)
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
				time.Sleep(takeTimeout / 3)
				_, err = io.CopyN(&got, r.Body, takeRate*10)
			}
			if !bytes.Equal(got.Bytes(), blob) {
				t.Errorf("a slow node got %d of %d bytes, %v", got.Len(), len(blob), err)
			}
			<-ended
			time.Sleep(10 * takeTimeout)
			if _, err := io.WriteString(slow, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
		}
		slow.Close()
		<-ended

		// This node reads a little now and then, within the deadline for each piece.
		trickle := ask()
		defer trickle.Close()
		var taking sync.WaitGroup
		taking.Go(func() {
			for b := make([]byte, 4<<10); ; time.Sleep(time.Second) {
				if _, err := trickle.Read(b); err != nil {
					return
				}
			}
		})
		if took := <-ended; took > 2*takeTimeout {
			t.Errorf("a node that takes 4 KiB a second was served for %v", took)
		}
		trickle.Close()
		taking.Wait()
		close(conns)
		<-served
	})
}

// Transfers need memory, so only a limited number runs at the same time, and the next one waits a
// little.
func TestTransfer_AreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{transfers: make(chan struct{}, 1)}
		ask := func() int {
			w := httptest.NewRecorder()
			s.transfer(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil), bytes.NewReader([]byte("layer")))
			return w.Code
		}
		s.transfers <- struct{}{}
		if got := ask(); got != http.StatusServiceUnavailable {
			t.Errorf("one more than there may be: %d", got)
		}
		time.AfterFunc(transferWait/2, func() { <-s.transfers })
		if got := ask(); got != http.StatusOK {
			t.Errorf("after another has ended: %d", got)
		}
	})
}

// A node that waited for a blob in vain, or that got an error, has no blob: no other node is
// redirected to it.
func TestServe_NodesWithoutTheBlobAreNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const digest = "sha256:0"
		s := NewServer(Config{}, Deps{
			Log: slog.New(slog.DiscardHandler),
			Open: func(context.Context, string) (content.ReaderAt, survey.Blob, error) {
				return nil, survey.Blob{}, errdefs.ErrNotFound
			},
		})
		end, _ := s.Expect([]ocispec.Descriptor{{Digest: digest, Size: relaySize}})
		time.AfterFunc(relayBeat/2, end) // httptest takes a sign of life for the answer
		for _, caller := range []string{"n1", "n2", "n3"} {
			w := httptest.NewRecorder()
			s.serve(w, httptest.NewRequestWithContext(WithCaller(t.Context(), caller), http.MethodGet, "/?"+queryRelayed, nil), digest)
			if w.Code != http.StatusNotFound {
				t.Errorf("%s: got %d, want %d", caller, w.Code, http.StatusNotFound)
			}
		}
		if got := s.relay.byBlob[digest]; got != nil && len(got.nodes) > 0 {
			t.Errorf("nodes to which others are redirected: got %q, want none", got.nodes)
		}
	})
}
