package swarmv1_test

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "swarm/proto/swarm/v1" // registers the messages
)

// FuzzUnmarshal: what comes over the wire, before anybody knows who sent it. The fast decoder ends on whatever comes, and
// takes no message that the reference refuses, except for text that is not UTF-8.
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
		if _, err := m.(fast).MarshalVT(); err != nil {
			t.Errorf("%T: %v", m, err)
		}
		if _, err := proto.Marshal(m); err != nil {
			return // Not UTF-8.
		}
		reference := types[int(kind)%len(types)].New().Interface()
		if err := proto.Unmarshal(data, reference); err != nil {
			t.Errorf("%T: only the fast decoder takes %x: %v", m, data, err)
		}
	})
}

// fast is a message with generated code of its own.
type fast interface {
	UnmarshalVT([]byte) error
	MarshalVT() ([]byte, error)
}
