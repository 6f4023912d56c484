//go:build linux

package ocispec

import (
	"bytes"
	"cmp"
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Accounts are the contents of an image's /etc/passwd and /etc/group; empty when it has none.
type Accounts struct {
	Passwd, Group []byte
}

// User resolves USER[:GROUP] and additional groups, by name or number, as Docker does: numbers need no entry, and a
// user's supplementary groups count unless a group is given.
func (a Accounts) User(name string, groups []string) (specs.User, error) {
	found, err := user.GetExecUser(name, nil, bytes.NewReader(a.Passwd), bytes.NewReader(a.Group))
	if err != nil {
		return specs.User{}, fmt.Errorf("user %q: the image does not have it, use a number: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	u := specs.User{UID: uint32(found.Uid), GID: uint32(found.Gid)}
	more, err := user.GetAdditionalGroups(groups, bytes.NewReader(a.Group))
	if err != nil {
		return specs.User{}, fmt.Errorf("groups %q: the image does not have them, use numbers: %w: %w", groups, err, errdefs.ErrInvalidArgument)
	}
	seen := map[int]bool{found.Gid: true}
	u.AdditionalGids = append(u.AdditionalGids, u.GID)
	for _, gid := range append(found.Sgids, more...) {
		if !seen[gid] {
			seen[gid] = true
			u.AdditionalGids = append(u.AdditionalGids, uint32(gid))
		}
	}
	return u, nil
}

// UID resolves one user, by name or number; empty is root.
func (a Accounts) UID(name string) (int, error) {
	if id, err := strconv.ParseUint(cmp.Or(name, "0"), 10, 31); err == nil {
		return int(id), nil
	}
	found, err := user.ParsePasswdFilter(bytes.NewReader(a.Passwd), func(u user.User) bool { return u.Name == name })
	if err != nil || len(found) == 0 {
		return 0, fmt.Errorf("user %q: the image does not have it, use a number: %w", name, errdefs.ErrInvalidArgument)
	}
	return found[0].Uid, nil
}

// GID resolves one group, by name or number; empty is root.
func (a Accounts) GID(name string) (int, error) {
	if id, err := strconv.ParseUint(cmp.Or(name, "0"), 10, 31); err == nil {
		return int(id), nil
	}
	found, err := user.ParseGroupFilter(bytes.NewReader(a.Group), func(g user.Group) bool { return g.Name == name })
	if err != nil || len(found) == 0 {
		return 0, fmt.Errorf("group %q: the image does not have it, use a number: %w", name, errdefs.ErrInvalidArgument)
	}
	return found[0].Gid, nil
}
