package ident

import (
	"net/netip"
	"strings"
)

const (
	// MaxHostname is the longest hostname (RFC 1123, section 2.1, with the limit of RFC 1035).
	MaxHostname = 253
	// MaxKey is the longest id that CheckKey accepts.
	MaxKey = 128
)

// CheckHostname returns an error if s is not a valid hostname (RFC 1123): labels of letters, digits
// and hyphens, separated by dots. A label has at most 63 characters and neither begins nor ends
// with a hyphen.
func CheckHostname(s string) error {
	if s == "" {
		return invalid("hostname is empty: give the host a name of letters, digits and hyphens")
	}
	if len(s) > MaxHostname {
		return invalid("hostname %s is too long: %d characters, at most %d are allowed", quote(s), len(s), MaxHostname)
	}
	for label := range strings.SplitSeq(s, ".") {
		if err := checkHostLabel(s, label); err != nil {
			return err
		}
	}
	return nil
}

func checkHostLabel(host, label string) error {
	switch {
	case label == "":
		return invalid("hostname %s is not valid: a part between dots is empty", quote(host))
	case len(label) > MaxName:
		return invalid("hostname %s is not valid: a part between dots has %d characters, at most %d are allowed", quote(host), len(label), MaxName)
	}
	for i := range len(label) {
		if !isAlnum(label[i]) && label[i] != '-' {
			return invalid("hostname %s is not valid: %q is not allowed; use letters, digits and hyphens", quote(host), runeAt(label, i))
		}
	}
	if label[0] == '-' || label[len(label)-1] == '-' {
		return invalid("hostname %s is not valid: a part between dots must begin and end with a letter or digit", quote(host))
	}
	return nil
}

// CheckHostAddress returns an error if s is not the address of one host: an IPv4 or IPv6 address
// without a zone that is neither unspecified, multicast nor broadcast. what ("advertise address")
// is used in the error text. Loopback addresses are valid, because a cluster on one machine may use
// them.
func CheckHostAddress(what, s string) error {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil || a.Zone() != "":
		return invalid("%s %s is not an IP address: write it like 192.0.2.7", what, quote(s))
	case a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return invalid("%s %s is not the address of one host: write it like 192.0.2.7", what, quote(s))
	}
	return nil
}

// IsKey reports whether s can be the id of an object in a message from another machine. The object
// may have been made by another build, so the rule is wider than IsID: 1 to MaxKey letters, digits,
// hyphens, underscores and dots, and the first character is a letter or digit. Such an id is a
// single path element and never "." or "..".
func IsKey(s string) bool {
	if s == "" || len(s) > MaxKey || !isAlnum(s[0]) {
		return false
	}
	for i := range len(s) {
		if !isAlnum(s[i]) && s[i] != '-' && s[i] != '_' && s[i] != '.' {
			return false
		}
	}
	return true
}

// CheckKey returns an error if IsKey is false. kind ("task", "network") is used in the error text.
func CheckKey(kind, s string) error {
	if IsKey(s) {
		return nil
	}
	return invalid("%s id %s is not valid: it must be 1 to %d letters, digits, -, _ and ., the first a letter or digit", kind, quote(s), MaxKey)
}
