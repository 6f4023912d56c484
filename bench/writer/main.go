//go:build linux

// Command writer is what the logs group runs in containers and beside them: it connects to a socket, and when it is told
// how many lines, writes so many to stdout, each with a system call of its own as programs do, and then one that says
// which round this was. It answers with the processor time that this took.
package main

import (
	"bytes"
	"fmt"
	"log"
	"net"
	"os"
	"syscall"
)

// lineLength is that of usual access logs.
const lineLength = 100

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: writer SOCKET")
	}
	if err := run(os.Args[1]); err != nil {
		log.Fatal("writer: ", err)
	}
}

func run(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	var lines int
	var round string
	if _, err := fmt.Fscanln(conn, &lines, &round); err != nil {
		return err
	}
	line := append(bytes.Repeat([]byte("x"), lineLength-1), '\n')
	for range lines - 1 {
		if _, err := os.Stdout.Write(line); err != nil {
			return err
		}
	}
	if _, err := fmt.Println(round); err != nil {
		return err
	}
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(conn, used.Utime.Nano()+used.Stime.Nano()); err != nil {
		return err
	}
	// Until the other end has seen enough: a container that ends has its log finished, which would be measured too.
	_, _ = conn.Read(make([]byte, 1))
	return nil
}
