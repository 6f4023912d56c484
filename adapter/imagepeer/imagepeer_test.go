package imagepeer

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"swarm/node"
	swarmv1 "swarm/proto/swarm/v1"
)

// manager answers Holders with the holders that it knows, or with an error.
type manager struct {
	grpc.ClientConnInterface
	holders []string
	err     error
}

func (m manager) Invoke(_ context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	for _, id := range m.holders {
		answer := reply.(*swarmv1.HoldersResponse)
		answer.Holders = append(answer.Holders, &swarmv1.Peer{NodeId: id, Addr: "192.0.2.1", Port: 2377})
	}
	return m.err
}

// A manager that does not answer is followed by the next one. One that knows no holder ends the
// search: every node that is alive is asked then.
func TestHolders(t *testing.T) {
	broken, ignorant, knowing := manager{err: errors.New("down")}, manager{}, manager{holders: []string{"h1", "h2"}}
	alive := []string{"a1"}
	for name, tc := range map[string]struct {
		managers []manager
		want     []string
	}{
		"no manager":              {nil, alive},
		"holders are known":       {[]manager{knowing, broken}, []string{"h1", "h2"}},
		"no holder is known":      {[]manager{ignorant, knowing}, alive},
		"the first does not help": {[]manager{broken, knowing}, []string{"h1", "h2"}},
		"none helps":              {[]manager{broken, broken}, alive},
	} {
		cluster := Cluster{
			Log: slog.New(slog.DiscardHandler), Alive: func() []string { return alive },
			Managers: func() []node.Peer {
				var out []node.Peer
				for i := range tc.managers {
					out = append(out, node.Peer{NodeID: string(rune('0' + i))})
				}
				return out
			},
			Dial: func(id string) (grpc.ClientConnInterface, error) { return tc.managers[id[0]-'0'], nil },
		}
		var p Peers
		leave := p.Join(cluster)
		if diff := cmp.Diff(tc.want, p.Holders(t.Context(), "sha256:0")); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		leave()
		if got := p.Holders(t.Context(), "sha256:0"); got != nil {
			t.Errorf("%s: after leaving: got %v", name, got)
		}
	}
}

type roundTripper struct{ host string }

func (r *roundTripper) RoundTrip(q *http.Request) (*http.Response, error) {
	r.host = q.URL.Host
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
}

func TestRoundTrip(t *testing.T) {
	var p Peers
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://node7/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.RoundTrip(request); !errdefs.IsUnavailable(err) {
		t.Errorf("without a cluster: got %v, want ErrUnavailable", err)
	}
	transport := &roundTripper{}
	defer p.Join(Cluster{Transport: transport})()
	answer, err := p.RoundTrip(request)
	if err != nil || transport.host != "node7" {
		t.Fatalf("got %v, and asked %q", err, transport.host)
	}
	_ = answer.Body.Close()
}

// Serve ends with its context, and not before. A caller without a certificate has no node ID.
func TestServe(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	type key struct{}
	images := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "caller="+r.Context().Value(key{}).(string))
	})
	withCaller := func(ctx context.Context, nodeID string) context.Context { return context.WithValue(ctx, key{}, nodeID) }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, ln, images, withCaller, slog.New(slog.DiscardHandler)) }()
	answer, err := http.Get("http://" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); err != nil || string(text) != "caller=" {
		t.Errorf("got %q, %v", text, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("at the end: %v", err)
	}
}
