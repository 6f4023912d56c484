// Command hello is the test image of the project: an HTTP server that returns the name of its
// container, with options for misbehaviour.
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
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"swarm/scenarios/traffic"
)

// options are the command line options.
type options struct {
	listen, echo, print, get, lookup, show, writer string
	exitAfter, logEvery                            time.Duration
	exitCode, long, hold, threads                  int
	ignoreTerm                                     bool
	hostile
}

func parse() (o options) {
	flag.StringVar(&o.listen, "listen", ":8080", "address to serve HTTP on; empty: serve nothing")
	flag.StringVar(&o.echo, "echo", "", "address to echo lines over TCP and datagrams over UDP on; empty: echo nothing")
	flag.DurationVar(&o.exitAfter, "exit-after", 0, "end by itself after this time; 0: never")
	flag.IntVar(&o.exitCode, "exit-code", 0, "exit code of -exit-after")
	flag.DurationVar(&o.logEvery, "log-every", 0, "write a numbered line this often; 0: never")
	flag.StringVar(&o.print, "print", "", "write this Go string (without its quotes) to stdout first")
	flag.IntVar(&o.long, "print-long", 0, "then write a line of this many letters to stdout")
	flag.StringVar(&o.get, "get", "", "request this URL once, print the response and end")
	flag.StringVar(&o.lookup, "lookup", "", "resolve this name or address once, print the answers in order and end")
	flag.StringVar(&o.show, "show", "", "write the first existing one of these files (separated by commas) to stdout")
	flag.IntVar(&o.hold, "hold", 0, "hold this many MiB of memory")
	flag.IntVar(&o.threads, "threads", 0, "start and hold this many threads, which the kernel counts as processes")
	flag.StringVar(&o.writer, "writer", "", "append the host name to this file continuously; empty: do not")
	flag.BoolVar(&o.ignoreTerm, "ignore-term", false, "do not end on SIGTERM")
	o.hostile.flags()
	flag.Parse()
	return o
}

func main() {
	log.SetFlags(0)
	o, code := parse(), 0
	var err error
	switch {
	case o.id:
		fmt.Println(os.Geteuid())
	case o.spoof != "":
		err = spoof(o.spoof, o.spoofDial)
	case o.get != "":
		err = ask(o.get)
	case o.lookup != "":
		err = resolve(o.lookup)
	default:
		if err = errors.Join(o.say(), o.begin()); err == nil {
			code = o.serve()
		}
	}
	if err != nil {
		log.Fatal(err)
	}
	os.Exit(code)
}

// say prints the output that the options request at the start.
func (o options) say() error {
	text, err := strconv.Unquote(`"` + o.print + `"`)
	if err != nil {
		return fmt.Errorf("-print %s: %w", o.print, err)
	}
	fmt.Print(text)
	if o.long > 0 {
		fmt.Println(strings.Repeat("x", o.long))
	}
	for _, file := range strings.Split(o.show, ",") {
		if b, err := os.ReadFile(file); err == nil {
			os.Stdout.Write(b)
			break
		}
	}
	return nil
}

// serve serves until it gets a signal to end, or until -exit-after or /exit/CODE ends it. It
// returns the exit code.
func (o options) serve() (code int) {
	held := bytes.Repeat([]byte{1}, o.hold<<20)
	defer runtime.KeepAlive(held)
	spawn(o.threads)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	exits := make(chan int, 1)
	if o.exitAfter > 0 {
		time.AfterFunc(o.exitAfter, func() { exits <- o.exitCode })
	}
	var lines atomic.Int64
	if o.logEvery > 0 {
		go count(o.logEvery, &lines)
	}
	if o.writer != "" {
		go write(o.writer)
	}
	mux := handler(exits, &lines)
	traffic.Handle(context.Background(), mux)
	stop := o.open(mux)
	log.Printf("hello: up as pid %d", os.Getpid())
	for {
		select {
		case code := <-exits:
			log.Printf("hello: ends with code %d", code)
			return code
		case s := <-signals:
			log.Printf("hello: got %v", s)
			if !o.ignoreTerm {
				stop()
				return 0
			}
		}
	}
}

// spawn starts n threads that block for ever. If the kernel refuses one, the Go runtime ends the
// process and prints how many threads there were.
func spawn(n int) {
	debug.SetMaxThreads(max(n+1000, 10_000))
	var started atomic.Int64
	for range n {
		go func() {
			runtime.LockOSThread()
			started.Add(1)
			for {
				_, _ = unix.Ppoll(nil, nil, nil) // It returns only when a signal interrupts it.
			}
		}()
	}
	for n > 0 && started.Load() < int64(n) {
		time.Sleep(10 * time.Millisecond)
	}
	if n > 0 {
		log.Printf("hello: holds %d threads", n)
	}
}

// open starts the server. stop closes the listener and gives requests in progress a second to end.
func (o options) open(h http.Handler) (stop func()) {
	echoing, stopEcho := context.WithCancel(context.Background())
	echoed := make(chan struct{})
	go func() {
		defer close(echoed)
		if o.echo == "" {
			return
		}
		if err := traffic.Echo(echoing, o.echo); echoing.Err() == nil {
			log.Fatal(err)
		}
	}()
	server := &http.Server{Addr: o.listen, Handler: h}
	if o.listen != "" {
		go func() {
			if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
				log.Fatal(err)
			}
		}()
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		stopEcho()
		_ = server.Shutdown(ctx)
		select {
		case <-echoed:
		case <-ctx.Done():
		}
	}
}

// ask prints the response of a URL.
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

// handler answers / with the name of the container, /env with its environment, /client with the
// address of the client, and /lines with the number of numbered lines that were written. /exit/CODE
// ends the process.
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

// writeEvery is the interval at which -writer appends to its file, and so the precision with which
// the file shows when a container began and ended.
const writeEvery = 5 * time.Millisecond

// write appends lines with the name of the container to a file until the process ends.
func write(name string) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	host, err := os.Hostname()
	for err == nil {
		_, err = f.WriteString(host + "\n")
		time.Sleep(writeEvery)
	}
	log.Fatal(err)
}

func count(every time.Duration, lines *atomic.Int64) {
	for n := int64(1); ; n++ {
		log.Printf("line %d", n)
		lines.Store(n)
		time.Sleep(every)
	}
}
