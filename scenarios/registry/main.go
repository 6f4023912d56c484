// Command registry is a real registry that keeps its images in memory, for scenarios. With -user it
// requires a login. With -tls it uses a certificate that it creates, and writes the certificate's
// authority to a file.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"swarm/internal/registrytest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:5000", "`address` to serve on")
	user := flag.String("user", "", "`NAME:PASSWORD` of the only user; empty: no login")
	host := flag.String("tls", "", "`host` in the certificate, with which it serves TLS; empty: no TLS")
	ca := flag.String("ca", "", "`file` for the authority of the certificate")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	users := map[string]string{}
	if name, password, ok := strings.Cut(*user, ":"); ok {
		users[name] = password
	}
	dir, err := os.MkdirTemp("", "registry")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	handler, err := registrytest.New(ctx, dir, users)
	if err != nil {
		return err
	}
	l, err := listener(*listen, *host, *ca)
	if err != nil {
		return err
	}
	s := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	stopped := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stopped()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func listener(address, host, ca string) (net.Listener, error) {
	if host == "" {
		return net.Listen("tcp", address)
	}
	cert, authority, err := registrytest.Certificate(host)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(ca, authority, 0o644); err != nil {
		return nil, err
	}
	return tls.Listen("tcp", address, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
}
