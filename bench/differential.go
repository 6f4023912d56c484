package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"swarm/bench/peer"
	"swarm/bench/testbed"
	"swarm/scenarios/differential"
)

// recordings is the folder of the scripts and their golden files, seen from the top of the
// repository.
const recordings = "scenarios/differential/testdata"

// record plays the differential scripts on three hosts with dockerd, all of them managers, and
// writes the golden files. With SCRIPTS set in the environment, it plays only the scripts whose
// names are there, separated by commas.
func record(ctx context.Context, e testbed.Env) error {
	scripts, err := differential.Load(recordings)
	if err != nil {
		return err
	}
	archives, err := differential.Images(ctx, e.Dir)
	if err != nil {
		return err
	}
	docker, err := peer.NewDocker(ctx, e, 3, 3)
	if err != nil {
		return err
	}
	defer docker.Close()
	player, err := peer.NewPlayer(ctx, docker, archives...)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(4)
	only := os.Getenv("SCRIPTS")
	failed := func(err error) error { fmt.Println(err); return err }
	for _, s := range scripts {
		if s.Alone || !selected(only, s.Name) {
			continue
		}
		g.Go(func() error {
			if err := recordOne(ctx, player, s); err != nil {
				return failed(err)
			}
			return nil
		})
	}
	err = g.Wait()
	for _, s := range scripts {
		if !s.Alone || !selected(only, s.Name) {
			continue
		}
		if one := recordOne(ctx, player, s); one != nil {
			err = failed(one)
		}
	}
	return err
}

func selected(only, name string) bool {
	return only == "" || strings.Contains(","+only+",", ","+name+",")
}

func recordOne(ctx context.Context, player *peer.Player, s *differential.Script) error {
	results, err := differential.Play(ctx, player, s)
	if err != nil {
		return fmt.Errorf("%w\nso far:\n%s", err, differential.Format(results))
	}
	for _, r := range results {
		if refused := r.Message != ""; refused != r.Step.Refused {
			return fmt.Errorf("%s: %s: refused %t by Docker: %s", s.Name, r.Step.Text, refused, r.Message)
		}
	}
	fmt.Printf("recorded %s\n", s.Name)
	return os.WriteFile(filepath.Join(recordings, s.Name+".docker.golden"), []byte(differential.Format(results)), 0o644)
}
