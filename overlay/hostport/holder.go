//go:build linux

package hostport

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// tcpListen is the state of a listening socket in /proc/net/tcp.
const tcpListen = "0A"

// holder returns the name and the process ID of the program that uses a port, for an error message.
// It returns "another program" if it cannot find the program.
func holder(protocol string, port uint16) string {
	inodes := make(map[string]bool)
	for _, file := range []string{protocol, protocol + "6"} {
		f, err := os.Open("/proc/thread-self/net/" + file)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if n, inode, ok := parseSocket(lines.Text(), protocol); ok && n == port {
				inodes["socket:["+inode+"]"] = true
			}
		}
		f.Close()
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return "another program"
	}
	for _, fd := range fds {
		link, err := os.Readlink(fd)
		if err != nil || !inodes[link] {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		if name, err := os.ReadFile("/proc/" + pid + "/comm"); err == nil {
			return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), pid)
		}
	}
	return "another program"
}

// parseSocket parses a line of /proc/net/{tcp,udp}. The second field is the local address, the
// fourth the state and the tenth the inode. A TCP socket that does not listen is not ok.
func parseSocket(line, protocol string) (port uint16, inode string, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 || (protocol == "tcp" && f[3] != tcpListen) {
		return 0, "", false
	}
	_, hex, ok := strings.Cut(f[1], ":")
	if !ok {
		return 0, "", false
	}
	n, err := strconv.ParseUint(hex, 16, 16)
	return uint16(n), f[9], err == nil
}
