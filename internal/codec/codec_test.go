package codec_test

import (
	"testing"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers gRPC's codec
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"swarm/internal/codec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Each side may have gRPC's codec.
func TestCodec_UnderstandsTheOther(t *testing.T) {
	for _, m := range []proto.Message{
		&swarmv1.Task{Id: "t1", Slot: 3, Meta: &swarmv1.Meta{Version: 7}},
		&swarmv1.Task{},
		&grpc_health_v1.HealthCheckRequest{Service: "not of this project"},
	} {
		for _, trusted := range []bool{false, true} {
			ours, theirs := codec.Codec{Trusted: trusted}, encoding.GetCodecV2("proto")
			for name, pair := range map[string][2]encoding.CodecV2{"encodes": {ours, theirs}, "decodes": {theirs, ours}, "both": {ours, ours}} {
				data, err := pair[0].Marshal(m)
				if err != nil {
					t.Fatal(err)
				}
				got := m.ProtoReflect().New().Interface()
				if err := pair[1].Unmarshal(data, got); err != nil || !proto.Equal(got, m) {
					t.Errorf("%s, trusted %v: got %v, %v, want %v", name, trusted, got, err, m)
				}
			}
		}
	}
}

func TestCodec_RefusesTextThatIsNotUTF8(t *testing.T) {
	data, err := codec.Codec{}.Marshal(&swarmv1.Task{Id: "\xff"})
	if err != nil {
		t.Fatal(err)
	}
	if err := (codec.Codec{}).Unmarshal(data, &swarmv1.Task{}); err == nil {
		t.Error("a message with an invalid string: got no error")
	}
}
