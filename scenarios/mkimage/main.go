// Command mkimage puts a static binary into an image and writes the image as a Docker archive, so
// that tests and demos need no registry.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	log.SetFlags(0)
	out := flag.String("o", "", "archive to write")
	tag := flag.String("t", "", "name of the image")
	padding := flag.Int64("padding", 0, "bytes of incompressible ballast, in a layer of its own")
	fifo := flag.String("fifo", "", "named pipe to put into the image")
	program := flag.String("name", "app", "name of the binary in the image's root folder")
	health := flag.String("health", "", "command of the image's HEALTHCHECK, words separated by blanks")
	flag.Parse()
	if *out == "" || *tag == "" || flag.NArg() != 1 {
		log.Fatal("usage: mkimage -o ARCHIVE -t NAME:TAG BINARY")
	}
	if err := build(*out, *tag, flag.Arg(0), *program, *fifo, strings.Fields(*health), *padding); err != nil {
		log.Fatal("mkimage: ", err)
	}
}

func build(out, tag, binary, program, fifo string, health []string, padding int64) error {
	ref, err := name.NewTag(tag)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	files := []file{{name: program, mode: 0o755, content: content}}
	if fifo != "" {
		files = append(files, file{name: strings.TrimPrefix(fifo, "/"), mode: 0o644, kind: tar.TypeFifo})
	}
	img, err := addLayer(empty.Image, files)
	if err != nil {
		return err
	}
	if padding > 0 {
		if img, err = addLayer(img, []file{{name: "ballast", mode: 0o644, content: noise(padding)}}); err != nil {
			return err
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint = []string{"/" + program}
	config.Config.Env = []string{"PATH=/bin:/usr/bin:/"}
	if len(health) > 0 {
		config.Config.Healthcheck = &v1.HealthConfig{Test: append([]string{"CMD"}, health...), Interval: time.Second, Retries: 2}
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return err
	}
	return tarball.WriteToFile(out, ref, img)
}

// file is one file of a layer.
type file struct {
	name    string
	mode    int64
	content []byte
	kind    byte // the tar type flag; 0: a regular file
}

func addLayer(img v1.Image, files []file) (v1.Image, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Typeflag: f.kind, Mode: f.mode, Size: int64(len(f.content)), ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	return mutate.AppendLayers(img, layer)
}

// noise returns bytes that do not compress and are the same on every run.
func noise(n int64) []byte {
	out := make([]byte, n)
	state := uint64(0x9e3779b97f4a7c15)
	for i := range out {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		out[i] = byte(state)
	}
	return out
}
