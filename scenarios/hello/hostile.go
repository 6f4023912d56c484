package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hostile has the options with which a container attacks its host. The attack tests set them.
type hostile struct {
	swap, link, copyTo, touch string
	spoof, spoofDial          string
	id                        bool
	nest                      int
	nestIn, fill, babble      string
}

func (h *hostile) flags() {
	flag.StringVar(&h.swap, "swap", "", "exchange this folder and a symbolic link to -swap-link, continuously")
	flag.StringVar(&h.link, "swap-link", "", "target of the symbolic link of -swap")
	flag.StringVar(&h.copyTo, "copy-setuid", "", "copy this program to this file with the setuid bit of root")
	flag.StringVar(&h.touch, "touch", "", "create this file")
	flag.StringVar(&h.spoof, "spoof", "", "claim this IPv4 address and take the connections that come for it; needs CAP_NET_RAW")
	flag.StringVar(&h.spoofDial, "spoof-dial", "", "address and port that -spoof connects to from the address that it claims")
	flag.IntVar(&h.nest, "nest", 0, "nest this many folders in -nest-in")
	flag.StringVar(&h.nestIn, "nest-in", "/", "where -nest begins")
	flag.StringVar(&h.fill, "fill", "", "append to this file until that fails, at most 16 MiB, and print the number of bytes")
	flag.StringVar(&h.babble, "babble", "", "address to listen on and to answer with one line of escape sequences and 2 MiB of letters; empty: nothing")
	flag.BoolVar(&h.id, "id", false, "print the effective user id and end")
}

// begin runs the attacks that happen once, and starts the exchange of -swap.
func (h *hostile) begin() error {
	if h.touch != "" {
		if err := os.WriteFile(h.touch, []byte("touched\n"), 0o644); err != nil {
			return err
		}
	}
	if h.copyTo != "" {
		if err := copySetuid(h.copyTo); err != nil {
			return err
		}
	}
	if h.nest > 0 {
		if err := nest(h.nestIn, h.nest); err != nil {
			return err
		}
		fmt.Println("nested", h.nest)
	}
	if h.fill != "" {
		n, err := fill(h.fill)
		fmt.Println("filled", n, err)
	}
	if h.babble != "" {
		if err := babble(h.babble); err != nil {
			return err
		}
	}
	if h.swap == "" {
		return nil
	}
	other := filepath.Join(filepath.Dir(h.swap), "other")
	if err := os.MkdirAll(h.swap, 0o755); err != nil {
		return err
	}
	if err := os.Symlink(h.link, other); err != nil {
		return err
	}
	go func() {
		for {
			if err := unix.Renameat2(unix.AT_FDCWD, h.swap, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE); err != nil {
				fmt.Println("swap:", err)
				return
			}
			time.Sleep(50 * time.Microsecond)
		}
	}()
	return nil
}

// babble answers every connection with data that is not HTTP.
func babble(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	line := []byte("\x1b]0;owned\a\u202e" + strings.Repeat("x", 2<<20) + "\r\n\r\n")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				// Unread data would reset the connection, and the answer would be lost.
				_, _ = http.ReadRequest(bufio.NewReader(c))
				_, _ = c.Write(line)
				_ = c.Close()
			}()
		}
	}()
	return nil
}

// nest creates nested folders. It has at most two of them open at a time.
func nest(dir string, levels int) error {
	at, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	for i := 0; i < levels && err == nil; i++ {
		if err = unix.Mkdirat(at, "d", 0o755); err != nil {
			break
		}
		var next int
		if next, err = unix.Openat(at, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
			break
		}
		err = unix.Close(at)
		at = next
	}
	return err
}

// fill appends to a file until a write fails.
func fill(name string) (written int, err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for written < 16<<20 && err == nil {
		var n int
		n, err = f.Write(block)
		written += n
	}
	return written, err
}

func copySetuid(to string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, from); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Chmod(to, 0o755|os.ModeSetuid)
}
