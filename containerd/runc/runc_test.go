package runc

import (
	"hash/crc32"
	"testing"
)

func TestForget_KeepsTheContent(t *testing.T) {
	before := crc32.ChecksumIEEE(Embedded())
	if err := Forget(); err != nil {
		t.Fatal(err)
	}
	if after := crc32.ChecksumIEEE(Embedded()); after != before {
		t.Errorf("checksum %x, before %x", after, before)
	}
}
