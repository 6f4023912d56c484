package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	suite = "bookworm"
	// packages turn Debian's minimal base into a small server. The steps use iproute2 and nftables
	// to examine it. swarm needs neither, as `make bare` shows.
	packages = "systemd,systemd-sysv,udev,dbus,iproute2,nftables,linux-image-cloud-amd64"
	diskSize = "4G"
)

// base is the system that every guest boots from.
type base struct{ disk, kernel, initrd string }

// files returns the files that are added to the system: network addresses by network card, the
// mount of the cargo disk, and the unit of the agent on that disk.
func files() map[string]string {
	f := map[string]string{
		"etc/hostname":   "localhost\n",
		"etc/hosts":      "127.0.0.1 localhost\n::1 localhost\n",
		"etc/machine-id": "", // Each guest creates its own at its first boot.
		"etc/fstab":      "/dev/vda / ext4 errors=remount-ro 0 1\n/dev/vdb /cargo ext4 ro 0 0\n",
		"etc/systemd/system/agent.service": `[Unit]
Description=Agent of the test
RequiresMountsFor=/cargo
[Service]
ExecStart=/cargo/vm -agent
Restart=always
KillMode=process
[Install]
WantedBy=multi-user.target
`,
	}
	for i := range guestNames {
		f[fmt.Sprintf("etc/systemd/network/10-guest%d.network", i)] = fmt.Sprintf(
			"[Match]\nMACAddress=%s\n[Network]\nAddress=%s/24\nGateway=%s\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n", mac(i), address(i), gateway)
	}
	return f
}

// enabled are the units that the guests start.
var enabled = []string{"agent.service", "systemd-networkd.service"}

// debian builds the base, unless an earlier run with the same recipe has built it.
func debian(ctx context.Context, dir string) (base, error) {
	recipe := sha256.New()
	fmt.Fprint(recipe, suite, packages, diskSize, files(), enabled)
	dir = filepath.Join(dir, fmt.Sprintf("debian-%x", recipe.Sum(nil)[:6]))
	b := base{disk: filepath.Join(dir, "root.img"), kernel: filepath.Join(dir, "vmlinuz"), initrd: filepath.Join(dir, "initrd")}
	if _, err := os.Stat(dir); err == nil {
		return b, nil
	}
	log.Printf("building %s with %s, once", suite, packages)
	began := time.Now()
	tmp := dir + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return base{}, err
	}
	root := filepath.Join(tmp, "root")
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return base{}, err
	}
	defer os.RemoveAll(tmp)
	if err := command(ctx, 9*time.Minute, "mmdebstrap", "--variant=minbase", "--include="+packages, suite, root); err != nil {
		return base{}, err
	}
	if err := furnish(ctx, root); err != nil {
		return base{}, err
	}
	if err := bootFiles(root, tmp); err != nil {
		return base{}, err
	}
	if err := makeDisk(ctx, root, filepath.Join(tmp, "root.img"), diskSize); err != nil {
		return base{}, err
	}
	if err := os.RemoveAll(root); err != nil {
		return base{}, err
	}
	log.Printf("built in %v", time.Since(began).Round(time.Second))
	return b, os.Rename(tmp, dir)
}

func furnish(ctx context.Context, root string) error {
	for name, text := range files() {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(root, "cargo"), 0o755); err != nil {
		return err
	}
	return command(ctx, time.Minute, "chroot", append([]string{root, "systemctl", "enable"}, enabled...)...)
}

// bootFiles copies the newest kernel and its initrd out of the root.
func bootFiles(root, to string) error {
	for name, pattern := range map[string]string{"vmlinuz": "boot/vmlinuz-*", "initrd": "boot/initrd.img-*"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		if len(found) != 1 {
			return fmt.Errorf("%s: %d files, want one", pattern, len(found))
		}
		if err := copyFile(found[0], filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

// makeDisk makes a file system image from a folder.
func makeDisk(ctx context.Context, from, disk, size string) error {
	return command(ctx, 3*time.Minute, "mkfs.ext4", "-q", "-F", "-m", "0", "-d", from, disk, size)
}

// cargo makes the disk that brings the programs under test to the guests.
func cargo(ctx context.Context, o options, dir string) (string, error) {
	hold := filepath.Join(dir, "cargo")
	if err := os.Mkdir(hold, 0o755); err != nil {
		return "", err
	}
	for name, from := range map[string]string{"vm": "/proc/self/exe", "swarm": o.binary, "next": o.next, "hello.tar": o.archive} {
		if err := copyFile(from, filepath.Join(hold, name)); err != nil {
			return "", err
		}
	}
	disk := hold + ".img"
	return disk, makeDisk(ctx, hold, disk, "512M")
}

// copyFile makes an executable copy of a file.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// command runs a program on this machine. An error includes the program's output.
func command(ctx context.Context, limit time.Duration, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w: run `make deps-vm`", err)
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.Join(lines[max(0, len(lines)-8):], "\n"))
	}
	return nil
}
