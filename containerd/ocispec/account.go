//go:build linux

package ocispec

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"swarm/containerd/inroot"
)

// Accounts are the contents of an image's /etc/passwd and /etc/group. They are empty if the image
// has none.
type Accounts struct {
	Passwd, Group []byte
}

// User resolves USER[:GROUP] and additional groups, by name or number, as Docker does: a number
// needs no entry, and the user's supplementary groups count unless a group is given.
// ErrInvalidArgument: there is no such user or group.
func (a Accounts) User(name string, groups []string) (specs.User, error) {
	found, err := user.GetExecUser(name, nil, bytes.NewReader(a.Passwd), bytes.NewReader(a.Group))
	if errors.Is(err, user.ErrRange) {
		return specs.User{}, fmt.Errorf("user %q: a number is out of range: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	if err != nil { // The text of err is not used, because it has the unquoted name with its control characters.
		return specs.User{}, fmt.Errorf("user %q: the image does not have it, use a number: %w", name, errdefs.ErrInvalidArgument)
	}
	u := specs.User{UID: uint32(found.Uid), GID: uint32(found.Gid)}
	more, err := user.GetAdditionalGroups(groups, bytes.NewReader(a.Group))
	if err != nil {
		return specs.User{}, fmt.Errorf("groups %q: the image does not have them, use numbers: %w", groups, errdefs.ErrInvalidArgument)
	}
	seen := map[int]bool{found.Gid: true}
	u.AdditionalGids = append(u.AdditionalGids, u.GID)
	for _, gid := range append(found.Sgids, more...) {
		if !seen[gid] {
			seen[gid] = true
			u.AdditionalGids = append(u.AdditionalGids, uint32(gid))
		}
	}
	if n := len(u.AdditionalGids); n > maxGroups {
		return specs.User{}, fmt.Errorf("user %q: it has %d groups, the kernel allows %d: %w", name, n, maxGroups, errdefs.ErrInvalidArgument)
	}
	return u, checkIDs(name, append(found.Sgids, found.Uid, found.Gid)...)
}

// maxGroups is NGROUPS_MAX of the kernel.
const maxGroups = 65536

// checkIDs refuses numbers that the kernel does not support. An image may list any number.
func checkIDs(name string, ids ...int) error {
	for _, id := range ids {
		if id < 0 || id > math.MaxInt32 {
			return fmt.Errorf("%q: the image lists it with the number %d, use one from 0 to %d: %w", name, id, math.MaxInt32, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// UID resolves a user, by name or number. An empty name is root.
func (a Accounts) UID(name string) (int, error) {
	if id, err := strconv.ParseUint(cmp.Or(name, "0"), 10, 31); err == nil {
		return int(id), nil
	}
	found, err := user.ParsePasswdFilter(bytes.NewReader(a.Passwd), func(u user.User) bool { return u.Name == name })
	if err != nil || len(found) == 0 {
		return 0, fmt.Errorf("user %q: the image does not have it, use a number: %w", name, errdefs.ErrInvalidArgument)
	}
	return found[0].Uid, checkIDs(name, found[0].Uid)
}

// GID resolves a group, by name or number. An empty name is root.
func (a Accounts) GID(name string) (int, error) {
	if id, err := strconv.ParseUint(cmp.Or(name, "0"), 10, 31); err == nil {
		return int(id), nil
	}
	found, err := user.ParseGroupFilter(bytes.NewReader(a.Group), func(g user.Group) bool { return g.Name == name })
	if err != nil || len(found) == 0 {
		return 0, fmt.Errorf("group %q: the image does not have it, use a number: %w", name, errdefs.ErrInvalidArgument)
	}
	return found[0].Gid, checkIDs(name, found[0].Gid)
}

// maxAccounts is the largest size in bytes of a file that accounts are read from.
const maxAccounts = 4 << 20

// ReadAccounts reads the users and groups of the file tree at root. A file that does not exist
// counts as empty. The tree may be a container's: links in it cannot lead out of it.
func ReadAccounts(root string) (a Accounts, err error) {
	if a.Passwd, err = inroot.ReadFile(root, "/etc/passwd", maxAccounts); err != nil {
		return a, err
	}
	a.Group, err = inroot.ReadFile(root, "/etc/group", maxAccounts)
	return a, err
}
