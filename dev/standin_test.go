//go:build linux

package dev_test

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// standIn is a program with swarm's command line and none of its insides. As a
// daemon it leaves about what a real one does: a companion in a session of its
// own, a mount, and a cgroup with a process in it.
func standIn(args []string) bool {
	var err error
	switch args[0] {
	case "daemon":
		err = standInDaemon(args[1:])
	case "companion":
		select {}
	case "-H":
		err = standInClient(strings.TrimPrefix(args[1], "unix://"), args[2:])
	default:
		return false
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stand-in:", err)
		os.Exit(1)
	}
	return true
}

func standInDaemon(args []string) error {
	fs := flag.NewFlagSet("daemon", flag.ContinueOnError)
	state := fs.String("state-dir", "", "")
	run := fs.String("run-dir", "", "")
	hostname := fs.String("hostname", "", "")
	cgroup := fs.String("cgroup-parent", "", "")
	fs.String("machine-id", "", "")
	refuse := fs.String("refuse", "", "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if name, _ := os.Hostname(); name != *hostname {
		return fmt.Errorf("hostname is %q, want %q", name, *hostname)
	}
	if *refuse == *hostname {
		return fmt.Errorf("%s was told to refuse", *hostname)
	}
	sock := filepath.Join(*run, "swarm.sock")
	_ = os.Remove(sock)
	for _, dir := range []string{"tmpfs", "tmpfs/inner dir"} {
		target := filepath.Join(*state, dir)
		if err := os.MkdirAll(target, 0o700); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", target, "tmpfs", 0, "size=64k"); err != nil {
			return err
		}
	}
	if err := companion(*state, *cgroup); err != nil {
		return err
	}
	cluster, err := net.Listen("tcp4", ":2377")
	if err != nil {
		return err
	}
	control, err := net.Listen("unix", sock)
	if err != nil {
		return err
	}
	go serveLines(cluster, func(line string) string { return "hello " + line })
	go serveLines(control, func(line string) string { return control1(line, *hostname) })
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	return nil
}

// companion outlives the daemon; like a container it is found by its cgroup alone.
func companion(state, cgroup string) error {
	pidFile := filepath.Join(state, "companion.pid")
	if b, err := os.ReadFile(pidFile); err == nil {
		pid, _ := strconv.Atoi(string(b))
		if unix.Kill(pid, 0) == nil {
			return nil
		}
	}
	cmd := exec.Command("/proc/self/exe", "companion")
	cmd.Env = []string{}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		return err
	}
	dir := filepath.Join("/sys/fs/cgroup/pids", cgroup, "container")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		return err
	}
	return os.WriteFile(pidFile, []byte(strconv.Itoa(cmd.Process.Pid)), 0o600)
}

// control1 answers one command of a client, from inside the host.
func control1(line, hostname string) string {
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case "init":
		return "ok"
	case "join-token":
		return "token-" + rest
	case "join":
		token, addr, _ := strings.Cut(rest, " ")
		c, err := net.Dial("tcp4", addr)
		if err != nil {
			return "error " + err.Error()
		}
		defer c.Close()
		fmt.Fprintln(c, hostname, token)
		answer, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return "error " + err.Error()
		}
		return strings.TrimSpace(answer)
	}
	return "error unknown command " + verb
}

func serveLines(l net.Listener, answer func(string) string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for s := bufio.NewScanner(c); s.Scan(); {
				fmt.Fprintln(c, answer(s.Text()))
			}
		}()
	}
}

func standInClient(sock string, args []string) error {
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	fs.Bool("q", false, "")
	token := fs.String("token", "", "")
	fs.String("advertise-addr", "", "")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	line := append([]string{args[0]}, fs.Args()...)
	if args[0] == "join" {
		line = []string{"join", *token, fs.Arg(0)}
	}
	c, err := net.Dial("unix", sock)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, strings.Join(line, " ")+"\n"); err != nil {
		return err
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	answer = strings.TrimSpace(answer)
	if strings.HasPrefix(answer, "error ") {
		return fmt.Errorf("%s", answer)
	}
	fmt.Println(answer)
	return nil
}
