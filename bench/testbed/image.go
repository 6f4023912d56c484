package testbed

import (
	"context"
	"fmt"
	"io"
	"os"

	swarmv1 "swarm/proto/swarm/v1"
)

// LoadImage gives the image in an archive to the cluster.
func (c *Cluster) LoadImage(ctx context.Context, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("%w: run `make bench`, which builds it", err)
	}
	defer f.Close()
	stream, err := c.Control.LoadImage(ctx)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			if err := stream.Send(&swarmv1.LoadImageRequest{Data: buf[:n]}); err != nil {
				break // the answer below says why
			}
		}
		if err != nil {
			break
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		if _, err := stream.Recv(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}
