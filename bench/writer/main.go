//go:build linux

// Command writer writes log lines for the group logs of command bench, in containers and without.
// It connects to a socket and reads a number of lines and the name of the round. It writes as many
// lines to stdout, each with its own system call, as programs do, and then one with the name of the
// round. It answers with the processor time that it used.
package main

import (
	"bytes"
	"fmt"
	"log"
	"net"
	"os"
	"syscall"
)

// lineLength is the length of a usual line of an access log, in bytes.
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
	// Wait until the other end closes the socket. A container that ends has its log completed,
	// which would be in the figure.
	_, _ = conn.Read(make([]byte, 1))
	return nil
}
