// Package ident generates ids, and checks the ids and names of objects: services, networks,
// volumes, secrets, configs, users and hosts. It does not know the objects themselves. Every
// component that makes or accepts an id or a name calls it. It runs no goroutine, and its only I/O
// is reading the random source of the system. All Check functions return errdefs.ErrInvalidArgument
// with a text for the user.
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
	// MaxName is the longest service or network name. Containers look these names up, so a name is
	// a DNS label (RFC 1035).
	MaxName = 63
	// MaxConfigName is the longest secret or config name, as in Docker.
	MaxConfigName = 64
	// MaxVolumeName is the longest volume name. It leaves room for more characters in a file name.
	MaxVolumeName = 128

	entropyBytes = 17 // 136 bits, of which IDLen digits keep 129
	base         = 36
)

// NewID returns a random id of IDLen base36 digits. Ids are unique without coordination: with a
// billion ids, the probability of one collision is below 1e-20.
func NewID() string { return Base36(RandomBytes(entropyBytes), IDLen) }

// RandomBytes returns n bytes from the random source of the system. It cannot fail: Go ends the
// process if the source fails.
func RandomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // documented never to return an error
	return b
}

// Base36 returns b as a number of exactly width lower-case base36 digits. A shorter number gets
// leading zeros. A longer number keeps its last width digits.
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

// IsBase36 reports whether s has only lower-case base36 digits. It is true for the empty string.
func IsBase36(s string) bool {
	for i := range len(s) {
		if !isLower(s[i]) && !isDigit(s[i]) {
			return false
		}
	}
	return true
}

// IsID reports whether s has the shape of a generated id, in contrast to a name or a prefix of an
// id.
func IsID(s string) bool { return len(s) == IDLen && IsBase36(s) }

// CheckID returns an error if s is not a generated id. kind ("node", "task") is used in the error
// text.
func CheckID(kind, s string) error {
	if IsID(s) {
		return nil
	}
	return invalid("%s id %s is not valid: it must be %d lower-case letters and digits", kind, quote(s), IDLen)
}

// Fold returns a name in the form in which DNS compares it. Service or network names with the same
// Fold are the same name.
func Fold(name string) string { return strings.ToLower(name) }

// CheckServiceName returns an error if s is not a valid service name. The name becomes a DNS label
// in every container.
func CheckServiceName(s string) error { return checkLabel("service", s) }

// CheckNetworkName returns an error if s is not a valid network name.
func CheckNetworkName(s string) error { return checkLabel("network", s) }

// CheckSecretName returns an error if s is not a valid secret name.
func CheckSecretName(s string) error { return checkDotted("secret", s, MaxConfigName) }

// CheckConfigName returns an error if s is not a valid config name.
func CheckConfigName(s string) error { return checkDotted("config", s, MaxConfigName) }

// CheckVolumeName returns an error if s is not a valid volume name. The rule is that of Docker. The
// name becomes the name of a folder.
func CheckVolumeName(s string) error {
	if err := checkCharacters("volume", s, MaxVolumeName); err != nil {
		return err
	}
	if !isAlnum(s[0]) {
		return invalid("volume name %s is not valid: it must start with a letter or digit", quote(s))
	}
	return nil
}

// CheckUserName returns an error if s is not a valid name for the owner of a credential.
func CheckUserName(s string) error { return checkDotted("user", s, MaxName) }

// checkLabel checks a name by the rule of Docker for services: letters and digits, with - and _
// between them. Dots are not allowed because they separate DNS labels.
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

// checkDotted checks a name by the rule of Docker for secrets and configs. It is the rule of
// checkLabel plus dots, because these names look like file names.
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

// checkEnds checks the first and the last character. s must not be empty and must have allowed
// characters only.
func checkEnds(kind, s string) error {
	if !isAlnum(s[0]) || !isAlnum(s[len(s)-1]) {
		return invalid("%s name %s is not valid: it must start and end with a letter or digit", kind, quote(s))
	}
	return nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isAlnum(c byte) bool { return isDigit(c) || isLower(c) || 'A' <= c && c <= 'Z' }

// runeAt returns the character that starts at byte i, for error texts.
func runeAt(s string, i int) rune {
	for _, r := range s[i:] {
		return r
	}
	return 0
}

// quote quotes s for an error text. It limits the length, so that a long or hostile name keeps the
// text one short line.
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
