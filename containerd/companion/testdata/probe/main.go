// Command probe is the program that the tests run in containers: `probe exit N` ends with N,
// `probe wait` ends with 3 on SIGUSR1 and makes the file /ready once it listens for that signal,
// `probe eat` takes memory until it is stopped.
package main

import (
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	switch os.Args[1] {
	case "exit":
		code, err := strconv.Atoi(os.Args[2])
		if err != nil {
			panic(err)
		}
		os.Exit(code)
	case "wait":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGUSR1)
		if err := os.WriteFile("/ready", nil, 0o600); err != nil {
			panic(err)
		}
		<-c
		os.Exit(3)
	case "eat":
		var kept [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			kept = append(kept, b)
		}
	}
}
