package main

import (
	"cmp"
	"context"
	"os"

	"github.com/containerd/errdefs"

	"swarm/cli/command"
	"swarm/cli/system"
	"swarm/cli/term"
	"swarm/doctor"
	"swarm/doctor/observe"
)

// diagnose connects package doctor to the command line.
func diagnose(ctx context.Context, r system.DoctorRequest) ([]system.Finding, error) {
	if os.Geteuid() != 0 {
		return nil, errdefs.ErrPermissionDenied.WithMessage("the doctor tries what the daemon will do, which only root may: run this command as root")
	}
	// If a daemon runs, the runc of its build starts the containers, not the runc of this program.
	build := cmp.Or(r.Info.GetVersion(), versionInfo())
	o, err := observe.Host(ctx, observe.Request{
		StateDir: r.StateDir, ClusterPort: command.DefaultPort, Info: r.Info, Conn: r.Conn,
		Runc: doctor.Runc{Version: build.GetRunc(), NoProfiles: term.WithoutProfiles(build)},
	})
	if err != nil {
		return nil, err
	}
	var out []system.Finding
	for _, f := range doctor.Judge(o) {
		out = append(out, system.Finding{
			Level: string(f.Level), Subject: f.Subject, Text: f.Text, Remedy: f.Remedy, Broken: f.Level == doctor.Failure,
		})
	}
	return out, nil
}
