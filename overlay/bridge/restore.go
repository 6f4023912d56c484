//go:build linux

package bridge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"

	"swarm/overlay/netns"
)

// Existing is a task that an earlier process attached. Result is what Attach returned for it.
type Existing struct {
	Attachment
	Result Result
}

// Restore takes over the tasks that an earlier process attached. The caller calls it once, before
// the first Attach. It keeps the network of the tasks in keep, creates the parts that are missing,
// and removes everything else that an earlier process left. It does not interrupt the traffic of a
// task whose network is complete. The error is ErrFailedPrecondition if a task is attached already.
func (b *Bridge) Restore(ctx context.Context, keep []Existing) error {
	keep = slices.Clone(keep)
	for i := range keep {
		if err := keep[i].normalise(); err != nil {
			return err
		}
	}
	release, err := b.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if len(b.attachments) > 0 {
		return fmt.Errorf("restore the bridge network: a task is attached already: %w", errdefs.ErrFailedPrecondition)
	}
	if err := b.removeStrayPins(keep); err != nil {
		return err
	}
	bridged := slices.ContainsFunc(keep, func(k Existing) bool { return !k.LoopbackOnly })
	if !bridged {
		if err := b.openKernel(); err != nil {
			return err
		}
		err := b.takeDown()
		return errors.Join(err, b.adopt(keep))
	}
	// One transaction replaces the rules by equal rules, so no connection is refused meanwhile.
	published := make(map[netip.Addr]taskRules)
	for _, k := range keep {
		if !k.LoopbackOnly {
			published[k.Result.Address.Addr()] = (&attached{Existing: k}).rules()
		}
	}
	if err := b.ensureUp(published); err != nil {
		return err
	}
	return b.adopt(keep)
}

// adopt takes over each task, and then makes the kernel match the tasks that it has taken over. If
// a task fails, adopt logs the error, detaches the task, and continues with the next one.
func (b *Bridge) adopt(keep []Existing) error {
	var errs []error
	for _, k := range keep {
		t := &attached{Existing: k}
		t.Result.Netns = b.pin(k.TaskID)
		if err := b.repair(t); err != nil {
			b.log.Error("cannot restore the network of a task: the task is detached and must be attached again", "task", k.TaskID, "err", errors.Join(err, b.disconnect(t)))
			continue
		}
		b.attachments[k.TaskID] = t
	}
	if b.up {
		errs = append(errs, b.net.removeStrayCables(b.attachments), b.net.sync(b.published()))
	}
	return errors.Join(errs...)
}

// repair takes over one task and creates the parts of its attachment that are missing.
func (b *Bridge) repair(t *attached) error {
	if !netns.Pinned(t.Result.Netns) {
		if err := netns.Create(t.Result.Netns); err != nil {
			return err
		}
	}
	if t.LoopbackOnly {
		return nil
	}
	addr := t.Result.Address.Addr()
	if err := b.addresses.reserve(addr); err != nil {
		t.Result.Address = netip.Prefix{} // disconnect must not release an address of another task.
		return err
	}
	// The caller may have stored only the address. The other fields derive from it.
	b.fillResult(t, addr)
	t.published = true
	var err error
	if t.sockets, err = b.ports.reclaim(t.TaskID, t.Result.Ports); err == nil {
		err = t.listen()
	}
	if err != nil {
		// Continue: the rules redirect the port to the task even without the socket.
		b.log.Warn("another program bound a published port while the daemon was stopped; the port still leads to the task", "task", t.TaskID, "err", err)
	}
	if b.net.plugged(t) {
		return nil
	}
	if err := b.net.discard(t.TaskID); err != nil {
		return err
	}
	return b.net.plug(t)
}

// published returns the content of the nftables sets: the rules of each published task, by its
// address.
func (b *Bridge) published() map[netip.Addr]taskRules {
	out := make(map[netip.Addr]taskRules)
	for _, t := range b.attachments {
		if t.published {
			out[t.Result.Address.Addr()] = t.rules()
		}
	}
	return out
}

// removeStrayPins deletes the namespaces of all tasks that are not in keep.
func (b *Bridge) removeStrayPins(keep []Existing) error {
	entries, err := os.ReadDir(b.cfg.NetnsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list namespaces: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if slices.ContainsFunc(keep, func(k Existing) bool { return k.TaskID == e.Name() }) {
			continue
		}
		errs = append(errs, netns.Delete(filepath.Join(b.cfg.NetnsDir, e.Name())))
	}
	return errors.Join(errs...)
}
