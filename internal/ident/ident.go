// Package ident owns the shape of what names things: generated ids, and the names that users give to services,
// networks, volumes, secrets and configs. It refuses to know what the names stand for. Everything that makes or accepts
// an id or a name calls it; it is pure apart from reading the system's random source and runs no goroutine.
package ident

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	// IDLen is the length of a generated id: 25 base36 digits hold 129 bits, as in Docker.
	IDLen = 25
	// MaxName is the longest service or network name: a DNS label (RFC 1035), because containers look it up.
	MaxName = 63
	// MaxConfigName is the longest secret or config name, as in Docker.
	MaxConfigName = 64
	// MaxVolumeName leaves room in a file name.
	MaxVolumeName = 128

	entropyBytes = 17 // 136 bits, of which IDLen digits keep 129
	base         = 36
)

// NewID returns a fresh random id of IDLen base36 digits. Ids are unique without coordination: at a billion ids the
// chance of one collision is below 1e-20.
func NewID() string { return Base36(RandomBytes(entropyBytes), IDLen) }

// RandomBytes returns n bytes of the system's random source. It cannot fail: Go ends the process when the source does.
func RandomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // documented never to return an error
	return b
}

// Base36 writes b as a number with exactly width lower-case base36 digits: zeros in front when it is short, only the
// last width digits when it is long.
func Base36(b []byte, width int) string {
	s := new(big.Int).SetBytes(b).Text(base)
	if len(s) >= width {
		return s[len(s)-width:]
	}
	out := make([]byte, width)
	pad := width - len(s)
	for i := range pad {
		out[i] = '0'
	}
	copy(out[pad:], s)
	return string(out)
}

// IsBase36 reports whether s consists of lower-case base36 digits only. The empty string does.
func IsBase36(s string) bool {
	for i := range len(s) {
		if !isLower(s[i]) && !isDigit(s[i]) {
			return false
		}
	}
	return true
}

// IsID reports whether s has the shape of a generated id, as distinct from a name or a prefix of an id.
func IsID(s string) bool { return len(s) == IDLen && IsBase36(s) }

// CheckID refuses what is no id. kind ("node", "task") is for the message.
func CheckID(kind, s string) error {
	if IsID(s) {
		return nil
	}
	return invalid("%s id %s is not valid: it must be %d lower-case letters and digits", kind, quote(s), IDLen)
}

// Fold is a name as DNS compares it. Names of services and networks that Fold makes equal are one name.
func Fold(name string) string { return strings.ToLower(name) }

// CheckServiceName refuses a name that cannot be a service's: it becomes a DNS label in every container.
func CheckServiceName(s string) error { return checkLabel("service", s) }

// CheckNetworkName refuses a name that cannot be a network's.
func CheckNetworkName(s string) error { return checkLabel("network", s) }

// CheckSecretName refuses a name that cannot be a secret's.
func CheckSecretName(s string) error { return checkDotted("secret", s, MaxConfigName) }

// CheckConfigName refuses a name that cannot be a config's.
func CheckConfigName(s string) error { return checkDotted("config", s, MaxConfigName) }

// CheckVolumeName refuses a name that cannot be a volume's: Docker's rule. It becomes a folder's name.
func CheckVolumeName(s string) error {
	if err := checkCharacters("volume", s, MaxVolumeName); err != nil {
		return err
	}
	if !isAlnum(s[0]) {
		return invalid("volume name %s is not valid: it must start with a letter or digit", quote(s))
	}
	return nil
}

// CheckUserName refuses a name that cannot be that of a credential's owner.
func CheckUserName(s string) error { return checkDotted("user", s, MaxName) }

// checkLabel is Docker's rule for services: letters and digits, with - and _ between them. No dots: DNS would split.
func checkLabel(kind, s string) error {
	if err := checkLength(kind, s, MaxName); err != nil {
		return err
	}
	for i := range len(s) {
		if !isAlnum(s[i]) && s[i] != '-' && s[i] != '_' {
			return invalid("%s name %s is not valid: %q is not allowed; use letters, digits, - and _", kind, quote(s), runeAt(s, i))
		}
	}
	return checkEnds(kind, s)
}

// checkDotted is Docker's rule for secrets and configs: as checkLabel, and dots, since they look like file names.
func checkDotted(kind, s string, limit int) error {
	if err := checkCharacters(kind, s, limit); err != nil {
		return err
	}
	return checkEnds(kind, s)
}

func checkCharacters(kind, s string, limit int) error {
	if err := checkLength(kind, s, limit); err != nil {
		return err
	}
	for i := range len(s) {
		if !isAlnum(s[i]) && s[i] != '-' && s[i] != '_' && s[i] != '.' {
			return invalid("%s name %s is not valid: %q is not allowed; use letters, digits, -, _ and .", kind, quote(s), runeAt(s, i))
		}
	}
	return nil
}

func checkLength(kind, s string, limit int) error {
	if s == "" {
		return invalid("%s name is empty: give it a name of letters, digits, - and _", kind)
	}
	if len(s) > limit {
		return invalid("%s name %s is too long: %d characters, at most %d are allowed", kind, quote(s), len(s), limit)
	}
	return nil
}

// checkEnds expects a non-empty s of allowed characters.
func checkEnds(kind, s string) error {
	if !isAlnum(s[0]) || !isAlnum(s[len(s)-1]) {
		return invalid("%s name %s is not valid: it must start and end with a letter or digit", kind, quote(s))
	}
	return nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isAlnum(c byte) bool { return isDigit(c) || isLower(c) || 'A' <= c && c <= 'Z' }

// runeAt returns the whole character that starts at byte i, for messages.
func runeAt(s string, i int) rune {
	for _, r := range s[i:] {
		return r
	}
	return 0
}

// quote keeps a hostile or huge name from filling or breaking the one line of a message.
func quote(s string) string {
	const shown = 80
	if len(s) > shown {
		return fmt.Sprintf("%q...", s[:shown])
	}
	return fmt.Sprintf("%q", s)
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
