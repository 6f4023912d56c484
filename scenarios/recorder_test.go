package scenarios

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/dev"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// recorder reads everything that the API of a manager gives to a reader, and keeps the messages.
type recorder struct {
	t       *testing.T
	conn    *grpc.ClientConn
	answers map[string][]byte // by method
}

func newRecorder(t *testing.T, h dev.Host) *recorder {
	t.Helper()
	conn, err := transport.DialUnix(h.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &recorder{t: t, conn: conn, answers: map[string][]byte{}}
}

// readAll calls every method of the users' services whose name begins with Get or List: once
// without a reference, and once for each reference. A method that does not know the reference gives
// an error, which is kept too.
func (r *recorder) readAll(refs ...string) {
	r.t.Helper()
	for _, file := range []protoreflect.FileDescriptor{
		swarmv1.File_swarm_v1_control_proto, swarmv1.File_swarm_v1_volume_proto, swarmv1.File_swarm_v1_stats_proto,
		swarmv1.File_swarm_v1_disk_proto, swarmv1.File_swarm_v1_daemon_proto,
	} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			if strings.HasPrefix(string(service.Name()), "Node") {
				continue // between nodes
			}
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				reads := strings.HasPrefix(string(m.Name()), "Get") || strings.HasPrefix(string(m.Name()), "List")
				if !reads || m.IsStreamingServer() || m.IsStreamingClient() {
					continue
				}
				r.call(m, "")
				for _, ref := range refs {
					r.call(m, ref)
				}
			}
		}
	}
}

func (r *recorder) call(m protoreflect.MethodDescriptor, ref string) {
	r.t.Helper()
	in, out := r.message(m.Input()), r.message(m.Output())
	if ref != "" {
		id := m.Input().Fields().ByName("id")
		if id == nil {
			return
		}
		in.ProtoReflect().Set(id, protoreflect.ValueOfString(ref))
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	name := string(m.Parent().FullName()) + "/" + string(m.Name())
	if err := r.conn.Invoke(ctx, "/"+name, in, out); err != nil {
		r.answers[name] = append(r.answers[name], err.Error()...)
		return
	}
	data, err := proto.Marshal(out)
	if err != nil {
		r.t.Fatal(err)
	}
	r.answers[name] = append(r.answers[name], data...)
}

func (r *recorder) message(d protoreflect.MessageDescriptor) proto.Message {
	r.t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		r.t.Fatal(err)
	}
	return kind.New().Interface()
}

// watch keeps all events that the manager still has, with their objects.
func (r *recorder) watch() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	for _, filters := range [][]string{nil, {"type=revision"}} {
		stream, err := swarmv1.NewControlClient(r.conn).Watch(ctx, &swarmv1.WatchRequest{
			Filters: filters, Objects: true, Since: timestamppb.New(time.Now().Add(-time.Hour)), Until: timestamppb.Now(),
		})
		if err != nil {
			r.t.Fatal(err)
		}
		n := 0
		for ; ; n++ {
			event, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				r.t.Fatal(err)
			}
			data, err := proto.Marshal(event)
			if err != nil {
				r.t.Fatal(err)
			}
			r.answers["Watch"] = append(r.answers["Watch"], data...)
		}
		if n == 0 {
			r.t.Errorf("watch with filters %q: got no events", filters)
		}
	}
}

// wantNone fails the test if an answer has one of the values.
func (r *recorder) wantNone(values []string) {
	r.t.Helper()
	if secret := r.answers["swarm.v1.Control/GetSecret"]; !bytes.Contains(secret, []byte("db")) || len(r.answers) < 20 {
		r.t.Errorf("got answers of %d methods, and %q of the secret, want more", len(r.answers), secret)
	}
	for method, data := range r.answers {
		for i, value := range values {
			if bytes.Contains(data, []byte(value)) {
				r.t.Errorf("%s has value %d", method, i)
			}
		}
	}
}
