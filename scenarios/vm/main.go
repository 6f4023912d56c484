// Command vm tests swarm on whole machines, which shows what network namespaces cannot. The
// machines are Debian guests in qemu, without KVM, with systemd, cgroup v2 and Debian's own kernel.
// swarm is installed on them, forms a cluster, and is restarted, upgraded, rebooted and
// uninstalled. `make vm` runs it.
//
// The command runs in network and process namespaces of its own, so that no interface of this
// machine changes and no guest outlives it. It builds the guests' root file system once (build/vm).
// It brings the program under test to the guests on a disk of its own, the cargo. It controls the
// guests through a serial port, which works whatever happens to their network. The same program is
// the agent at the port's other end.
//
// A scenario is a function in the list that steps() returns. Each scenario starts with the cluster
// that the one before it left.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// options are the command line options.
type options struct {
	binary, next, archive string
	dir                   string
	record, revision      string
	memory, cpus          int
	limit                 time.Duration
	until                 string
	interactive           bool
}

// guestNames are the names of the machines of a run.
var guestNames = []string{"n1", "n2", "n3"}

func main() {
	log.SetFlags(log.Ltime)
	log.SetPrefix("vm: ")
	var o options
	agent := flag.Bool("agent", false, "serve the serial port (in a guest)")
	inside := flag.Bool("inside", false, "run in this namespace (set when vm runs itself)")
	flag.StringVar(&o.binary, "binary", "bin/swarm", "swarm to test")
	flag.StringVar(&o.next, "next", "build/vm/next", "another build, to upgrade to")
	flag.StringVar(&o.archive, "archive", "build/hello.tar", "image to run")
	flag.StringVar(&o.dir, "dir", "build/vm", "folder for disks")
	flag.StringVar(&o.record, "record", "", "document that gets the log of a green run")
	flag.StringVar(&o.revision, "revision", "", "revision of the program, for the log")
	flag.IntVar(&o.memory, "memory", 1024, "MiB of each guest")
	flag.IntVar(&o.cpus, "cpus", 1, "processors of each guest; without KVM, more than one slows the guest down")
	flag.DurationVar(&o.limit, "limit", 50*time.Minute, "bound of the whole run")
	flag.StringVar(&o.until, "until", "", "the last step; empty: all")
	flag.BoolVar(&o.interactive, "interactive", false, "then run lines from stdin: a guest name and a shell command, or step and a step name")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case *agent:
		err = serveAgent(ctx)
	case *inside:
		err = run(ctx, o)
	default:
		// The download uses this machine's network, so it happens before enterNamespaces.
		if _, err = debian(ctx, o.dir); err == nil {
			err = enterNamespaces(ctx)
		}
	}
	if err != nil {
		stop()
		log.Fatal(err)
	}
}

// enterNamespaces runs this program again, in a network namespace of its own and as the first
// process of a process namespace. All processes that it starts end with it.
func enterNamespaces(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: it makes namespaces, disks and a bridge")
	}
	// The child ends with this thread, so this thread must not end before the process does.
	runtime.LockOSThread()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{"-inside"}, os.Args[1:]...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return errors.New("not green")
		}
		return err
	}
	return nil
}

func run(ctx context.Context, o options) error {
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	began := time.Now()
	l, err := newLab(ctx, o)
	if err != nil {
		return err
	}
	defer l.close()
	var r report
	err = r.steps(ctx, l, o.until)
	if err != nil {
		log.Print(err)
		l.explain()
	}
	if o.interactive {
		err = errors.Join(err, l.interactive(ctx, os.Stdin, os.Stdout))
	}
	if err != nil {
		return err
	}
	log.Printf("green in %v", time.Since(began).Round(time.Second))
	if o.record == "" || o.until != "" {
		return nil
	}
	return r.write(o.record, o.revision, began)
}
