package ident_test

import (
	"strings"
	"testing"

	"swarm/internal/ident"
)

func TestCheckHostname(t *testing.T) {
	for name, ok := range map[string]bool{
		"node1": true, "a": true, "1": true, "web-1.example.com": true, "XN--abc": true, strings.Repeat("a", 63): true,
		strings.Repeat(strings.Repeat("a", 49)+".", 5) + "aaa": true,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "-a": false, "a-": false, "a.-b": false, "my_host": false,
		"a b": false, "a\nb": false, "a\x1b[2J": false, "bücher": false, "a/b": false, "a\x00": false,
		strings.Repeat("a", 64): false, strings.Repeat(strings.Repeat("a", 49)+".", 5) + "aaaa": false,
	} {
		if err := ident.CheckHostname(name); (err == nil) != ok {
			t.Errorf("CheckHostname(%q) = %v, want accepted: %v", name, err, ok)
		} else if err != nil && strings.ContainsAny(err.Error(), "\n\x1b\x00") {
			t.Errorf("CheckHostname(%q) says %q, which is not one printable line", name, err)
		}
	}
}

func TestCheckHostAddress(t *testing.T) {
	for addr, ok := range map[string]bool{
		"192.0.2.7": true, "10.0.0.1": true, "2001:db8::1": true, "127.0.0.1": true, "::1": true,
		"": false, "host": false, "192.0.2.7:2377": false, "0.0.0.0": false, "::": false, "224.0.0.1": false, "ff02::1": false,
		"fe80::1%eth0": false, "255.255.255.255": false, "192.0.2.0/24": false, "192.0.2.7\n": false,
	} {
		if err := ident.CheckHostAddress("advertise address", addr); (err == nil) != ok {
			t.Errorf("CheckHostAddress(%q) = %v, want accepted: %v", addr, err, ok)
		}
	}
}

func TestIsKey(t *testing.T) {
	for key, ok := range map[string]bool{
		"a": true, "t1": true, ident.NewID(): true, "a.b-c_d": true, strings.Repeat("x", 128): true,
		"": false, ".": false, "..": false, ".a": false, "-a": false, "a/b": false, "../a": false, "a\x00": false, "a b": false, "ä": false,
		strings.Repeat("x", 129): false,
	} {
		if ident.IsKey(key) != ok {
			t.Errorf("IsKey(%q) = %v, want %v", key, !ok, ok)
		}
		if (ident.CheckKey("task", key) == nil) != ok {
			t.Errorf("CheckKey(%q) does not agree with IsKey", key)
		}
	}
}
