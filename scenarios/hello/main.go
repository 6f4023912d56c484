// Command hello is the project's own test image: an HTTP server that says who answers, and misbehaves when asked to.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"swarm/scenarios/traffic"
)

func main() {
	listen := flag.String("listen", ":8080", "address to serve HTTP on; empty: serve nothing")
	echo := flag.String("echo", "", "address to echo lines over TCP and datagrams over UDP on; empty: echo nothing")
	exitAfter := flag.Duration("exit-after", 0, "end by itself after this time; 0: never")
	exitCode := flag.Int("exit-code", 0, "code of that end")
	logEvery := flag.Duration("log-every", 0, "write a numbered line this often; 0: never")
	printed := flag.String("print", "", "write this to stdout first, as it is: a Go string without its quotes")
	long := flag.Int("print-long", 0, "write a line of so many letters to stdout, then")
	get := flag.String("get", "", "URL to ask for once; print the answer and end")
	lookup := flag.String("lookup", "", "name or address to ask the name server for once; print the answers in order and end")
	show := flag.String("show", "", "write the first of these files, separated by commas, that is there to stdout")
	hold := flag.Int("hold", 0, "hold so many MiB of memory")
	ignoreTerm := flag.Bool("ignore-term", false, "do not end on SIGTERM")
	flag.Parse()
	log.SetFlags(0)
	if *get != "" {
		if err := ask(*get); err != nil {
			log.Fatal(err)
		}
		return
	}

	if *lookup != "" {
		if err := resolve(*lookup); err != nil {
			log.Fatal(err)
		}
		return
	}

	text, err := strconv.Unquote(`"` + *printed + `"`)
	if err != nil {
		log.Fatalf("-print %s: %v", *printed, err)
	}
	fmt.Print(text)
	if *long > 0 {
		fmt.Println(strings.Repeat("x", *long))
	}
	for _, file := range strings.Split(*show, ",") {
		if b, err := os.ReadFile(file); err == nil {
			os.Stdout.Write(b)
			break
		}
	}
	held := bytes.Repeat([]byte{1}, *hold<<20)
	defer runtime.KeepAlive(held)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	exits := make(chan int, 1)
	if *exitAfter > 0 {
		time.AfterFunc(*exitAfter, func() { exits <- *exitCode })
	}
	var lines atomic.Int64
	if *logEvery > 0 {
		go count(*logEvery, &lines)
	}
	echoing, stopEcho := context.WithCancel(context.Background())
	echoed := make(chan struct{})
	go func() {
		defer close(echoed)
		if *echo == "" {
			return
		}
		if err := traffic.Echo(echoing, *echo); echoing.Err() == nil {
			log.Fatal(err)
		}
	}()
	mux := handler(exits, &lines)
	traffic.Handle(context.Background(), mux)
	server := &http.Server{Addr: *listen, Handler: mux}
	if *listen != "" {
		go func() {
			if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
				log.Fatal(err)
			}
		}()
	}
	log.Printf("hello: up as pid %d", os.Getpid())
	for {
		select {
		case code := <-exits:
			log.Printf("hello: ends with code %d", code)
			os.Exit(code)
		case s := <-signals:
			log.Printf("hello: got %v", s)
			if *ignoreTerm {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			stopEcho()
			_ = server.Shutdown(ctx)
			select {
			case <-echoed:
			case <-ctx.Done():
			}
			cancel()
			return
		}
	}
}

// ask prints what a URL answers.
func ask(url string) error {
	client := http.Client{Timeout: 5 * time.Second}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

// resolve prints the addresses of a name, or the names of an address.
func resolve(what string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r := &net.Resolver{PreferGo: true}
	find := r.LookupHost
	if net.ParseIP(what) != nil {
		find = r.LookupAddr
	}
	found, err := find(ctx, what)
	slices.Sort(found)
	for _, f := range found {
		fmt.Println(f)
	}
	return err
}

// handler answers / with the name of the container, /env with its environment, /client with who asks, /lines with how many
// numbered lines were written, and ends the process on /exit/CODE.
func handler(exits chan<- int, lines *atomic.Int64) *http.ServeMux {
	mux := http.NewServeMux()
	host, _ := os.Hostname()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "hello from %s\n", host) })
	mux.HandleFunc("GET /client", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.RemoteAddr) })
	mux.HandleFunc("GET /lines", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, lines.Load()) })
	mux.HandleFunc("GET /env", func(w http.ResponseWriter, _ *http.Request) {
		for _, v := range os.Environ() {
			fmt.Fprintln(w, v)
		}
	})
	mux.HandleFunc("GET /exit/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.PathValue("code"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		exits <- code
	})
	return mux
}

func count(every time.Duration, lines *atomic.Int64) {
	for n := int64(1); ; n++ {
		log.Printf("line %d", n)
		lines.Store(n)
		time.Sleep(every)
	}
}
