package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"swarm/bench/figure"
	"swarm/bench/peer"
	"swarm/bench/testbed"
	"swarm/dev"
	"swarm/internal/pause"
)

const (
	// churnRest is the time without work before memory is measured.
	churnRest    = 30 * time.Second
	managerTasks = 20_000
	workerTasks  = 2_000
)

// churn measures the memory and the files that ended tasks leave in a manager and in a worker.
func churn(ctx context.Context, e testbed.Env) error {
	if err := managerChurn(ctx, e); err != nil {
		return err
	}
	return workerChurn(ctx, e)
}

func managerChurn(ctx context.Context, e testbed.Env) error {
	const at = 500
	c, err := testbed.Up(ctx, e, dev.Options{Nodes: 3, Managers: 3, DaemonArgs: []string{"--simulated"}})
	if err != nil {
		return err
	}
	defer c.Down()
	leader, follower := c.Nodes[0], c.Nodes[2]
	fresh, err := restart(ctx, c, follower)
	if err != nil {
		return err
	}
	pss, err := churned(ctx, c, managerTasks/at, at, func() (float64, error) {
		return testbed.Memory([]testbed.Process{{PID: leader.PID, Kind: testbed.Daemon}}, "Pss", testbed.Daemon)
	}, nil)
	if err != nil {
		return err
	}
	figure.Print("manager_churn_ratio", pss[2]/pss[0], "x", fmt.Sprintf("PSS after %d simulated tasks against a fresh cluster: %.0f, %.0f after half, %.0f MB; goal 1.5", managerTasks, pss[0], pss[1], pss[2]))
	figure.Print("manager_churn_second_half", pss[2]/pss[1], "x", "PSS after all of them against after half; goal 1")
	log, err := size(leader.StateDir, "raft.db")
	if err != nil {
		return err
	}
	figure.Print("manager_log_mb", log/1e6, "MB", "the file of the Raft log after it")
	after, err := restart(ctx, c, follower)
	if err != nil {
		return err
	}
	figure.Print("manager_start_ms", figure.Millis(after), "ms", fmt.Sprintf("until the daemon is ready with that log; fresh: %.0f", figure.Millis(fresh)))
	return nil
}

// restart kills a daemon and returns the time until it is ready again.
func restart(ctx context.Context, c *testbed.Cluster, h dev.Host) (time.Duration, error) {
	if err := c.Kill(ctx, h.Name); err != nil {
		return 0, err
	}
	began := time.Now()
	err := c.Start(ctx, h.Name)
	return time.Since(began), err
}

func workerChurn(ctx context.Context, e testbed.Env) error {
	const at = 50
	c, err := testbed.Up(ctx, e, dev.Options{Nodes: 1, Managers: 1}, e.Archive)
	if err != nil {
		return err
	}
	defer c.Down()
	host := c.Nodes[0]
	bare, err := peer.NewRuntime(ctx, host, e)
	if err != nil {
		return err
	}
	defer bare.Close()
	pss, err := churned(ctx, c, workerTasks/at, at, func() (float64, error) {
		all, err := testbed.Processes(host)
		if err != nil {
			return 0, err
		}
		return testbed.Memory(all, "Pss", testbed.Daemon, testbed.Runtime)
	}, bare.Gone)
	if err != nil {
		return err
	}
	figure.Print("worker_churn_ratio", pss[2]/pss[0], "x", fmt.Sprintf("PSS of daemon and runtime after %d containers against before: %.0f, %.0f after half, %.0f MB; goal 1.5", workerTasks, pss[0], pss[1], pss[2]))
	figure.Print("worker_churn_second_half", pss[2]/pss[1], "x", "PSS after all of them against after half; goal 1")
	logs, err := os.ReadDir(filepath.Join(host.StateDir, "logs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	figure.Print("log_folders", float64(len(logs)), "", "that are left of them: logs of removed tasks stay for a week, within 1 GiB")
	took, err := restart(ctx, c, host)
	if err != nil {
		return err
	}
	figure.Print("worker_start_ms", figure.Millis(took), "ms", "until the daemon is ready, with these")
	return nil
}

// churned creates and removes services of n tasks each, one after the other. It measures before the
// first service, after half of them and after the last.
func churned(ctx context.Context, c *testbed.Cluster, services, n int, measure func() (float64, error), gone func(context.Context) error) (pss [3]float64, err error) {
	for i := range services + 1 {
		if i == 0 || i == services/2 || i == services {
			if err := pause.For(ctx, churnRest); err != nil {
				return pss, err
			}
			if pss[2*i/services], err = measure(); err != nil {
				return pss, err
			}
		}
		if i == services {
			break
		}
		if _, _, err := testbed.CreateAndRemove(ctx, c.Control, testbed.Service(fmt.Sprintf("churn%d", i), uint64(n)), n, gone); err != nil {
			return pss, err
		}
	}
	return pss, nil
}

// size adds up the sizes of the files with a name below a folder.
func size(dir, name string) (total float64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != name {
			return err
		}
		info, err := d.Info()
		total += float64(info.Size())
		return err
	})
	return total, err
}
