package swarmv1_test

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "swarm/proto/swarm/v1" // registers the messages
)

// FuzzUnmarshal: what comes over the wire, before anybody knows who sent it. The fast decoder ends on whatever comes, and what
// it takes is the same message to the reference when it is sent on.
func FuzzUnmarshal(f *testing.F) {
	var types []protoreflect.MessageType
	protoregistry.GlobalTypes.RangeMessages(func(t protoreflect.MessageType) bool {
		if _, ok := t.New().Interface().(fast); ok {
			types = append(types, t)
		}
		return true
	})
	f.Add(uint16(0), []byte{0x0a, 0x01, 'x'})
	f.Add(uint16(7), []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Add(uint16(9), []byte{0x12, 0x02, 0x0a, 0x00, 0x0b, 0x0b, 0x0c})
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		m := types[int(kind)%len(types)].New().Interface()
		if m.(fast).UnmarshalVT(data) != nil {
			return
		}
		sent, err := m.(fast).MarshalVT()
		if err != nil {
			t.Fatalf("%T: %v", m, err)
		}
		if _, err := proto.Marshal(m); err != nil {
			return // Text that is not UTF-8, which the reference refuses.
		}
		got := types[int(kind)%len(types)].New().Interface()
		if err := proto.Unmarshal(sent, got); err != nil || !proto.Equal(m, got) {
			t.Errorf("%T of %x is sent on as %v, %v, want %v", m, data, got, err, m)
		}
	})
}

// fast is a message with generated code of its own.
type fast interface {
	UnmarshalVT([]byte) error
	MarshalVT() ([]byte, error)
}
