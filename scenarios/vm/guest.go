package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	gateway = "10.77.0.1"
	bridge  = "vmbr"
)

func address(i int) string { return netip.AddrFrom4([4]byte{10, 77, 0, byte(11 + i)}).String() }

func mac(i int) string { return fmt.Sprintf("52:54:00:77:00:%02x", 11+i) }

// guest is a virtual machine.
type guest struct {
	name, address string
	// console is the file with the output of the kernel and of systemd.
	console string
	link    *link
	process *exec.Cmd
	ended   chan error
}

// startGuest starts a machine. Its disk begins as a copy of the base's disk, and keeps its contents
// over reboots.
func startGuest(ctx context.Context, o options, b base, dir, cargo string, i int) (*guest, error) {
	g := &guest{name: guestNames[i], address: address(i), ended: make(chan error, 1)}
	g.console = filepath.Join(dir, g.name+".console")
	disk, socket, tap := filepath.Join(dir, g.name+".qcow2"), filepath.Join(dir, g.name+".agent"), "vm"+strconv.Itoa(i)
	if err := command(ctx, time.Minute, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", b.disk, disk); err != nil {
		return nil, err
	}
	for _, args := range []string{"tuntap add " + tap + " mode tap", "link set " + tap + " master " + bridge + " up"} {
		if err := command(ctx, 10*time.Second, "ip", strings.Fields(args)...); err != nil {
			return nil, err
		}
	}
	kernelLine, err := kernelLine()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, g.name+".qemu"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	g.process = exec.Command("qemu-system-x86_64", "-name", g.name, "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,-la57,-svm", "-smp", strconv.Itoa(o.cpus), "-m", strconv.Itoa(o.memory),
		"-kernel", b.kernel, "-initrd", b.initrd, "-append", kernelLine+" systemd.hostname="+g.name,
		// The power of a guest is never cut, so its writes need not reach this machine's disk.
		"-drive", "if=virtio,format=qcow2,cache=unsafe,file="+disk,
		"-drive", "if=virtio,format=raw,readonly=on,file="+cargo,
		"-netdev", "tap,id=net,script=no,downscript=no,ifname="+tap, "-device", "virtio-net-pci,romfile=,netdev=net,mac="+mac(i),
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,server=on,wait=off,path="+socket,
		"-device", "virtserialport,chardev=agent,name="+portName,
		"-device", "virtio-rng-pci", "-serial", "file:"+g.console)
	g.process.Stdout, g.process.Stderr = log, log
	// Where the kernel shares processors between sessions, each guest is a session of its own.
	g.process.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := g.process.Start(); err != nil {
		return nil, err
	}
	go func() { g.ended <- g.process.Wait() }()
	if g.link, err = dialLink(ctx, socket); err != nil {
		said, _ := os.ReadFile(log.Name())
		g.off()
		return nil, fmt.Errorf("%s: %w: %s", g.name, err, said)
	}
	return g, nil
}

// kernelLine has the guest's kernel read the time from the processor's counter. Without this, each
// reading of the clock is a system call and the emulation of a device, and Go reads the clock
// often. The counter is that of this machine. A guest cannot measure its rate while other programs
// use this machine, nor whether its processors share the counter, so the kernel command line states
// both.
func kernelLine() (string, error) {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	// Where there is such a counter, Linux computes bogomips from its rate: MHz, times two.
	found := regexp.MustCompile(`(?m)^bogomips\s*: (\S+)$`).FindSubmatch(text)
	if found == nil {
		return "", errors.New("/proc/cpuinfo has no bogomips: guests run on x86 only")
	}
	mhz2, err := strconv.ParseFloat(string(found[1]), 64)
	return fmt.Sprintf("root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off highres=off tsc=reliable clocksource=tsc tsc_early_khz=%.0f", mhz2/2*1000), err
}

// off ends the guest's process, as if its power were cut.
func (g *guest) off() {
	_ = g.process.Process.Kill() // It may have ended already.
	<-g.ended
	if g.link != nil {
		g.link.close()
	}
}

// run runs a command in the guest and returns its output without the last newline. A command that
// fails is an error.
func (g *guest) run(ctx context.Context, argv ...string) (string, error) {
	r, err := g.link.run(ctx, argv...)
	if err != nil {
		return "", fmt.Errorf("%s: %w", g.name, err)
	}
	if r.Code != 0 {
		return string(r.Out), fmt.Errorf("%s: %s: exit code %d: %s%s", g.name, strings.Join(argv, " "), r.Code, r.Err, r.Out)
	}
	return strings.TrimRight(string(r.Out), "\n"), nil
}

// sh runs a shell command.
func (g *guest) sh(ctx context.Context, line string) (string, error) {
	return g.run(ctx, "/bin/sh", "-euc", line)
}

// swarm runs a swarm command.
func (g *guest) swarm(ctx context.Context, args ...string) (string, error) {
	return g.run(ctx, append([]string{"swarm"}, args...)...)
}

// settled waits until systemd has finished the boot and no unit has failed.
func (g *guest) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 6*time.Minute)
	defer cancel()
	r, err := g.link.run(ctx, "systemctl", "is-system-running", "--wait")
	if err != nil {
		return fmt.Errorf("%s: %w", g.name, err)
	}
	if state := strings.TrimSpace(string(r.Out)); state != "running" {
		failed, err := g.run(ctx, "systemctl", "--failed", "--no-legend", "--plain")
		return fmt.Errorf("%s: systemd is %s: %s %v", g.name, state, failed, err)
	}
	return nil
}
