package object

import (
	"maps"
	"strconv"
	"strings"

	"swarm/internal/facts"
	"swarm/internal/task"
	"swarm/manager/control/crud"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// Events returns the Events of the tables that users may watch. Users may not watch claims, and
// the versions of secrets and configs.
func Events() []crud.Events {
	return []crud.Events{
		Nodes().Events(), nodeStates(), Services().Events(), revisions(), Tasks().Events(), taskStatuses(),
		Networks().Events(), endpoints(), Secrets().Events(), Configs().Events(), Images().Events(), runs(), imageCopies(), volumes(), clusters(), Credentials().Events(),
	}
}

func nodeStates() crud.Events {
	return crud.EventsOf(table.NodeState, crud.Display[*swarmv1.NodeState]{
		Of: Nodes().Word,
		Changed: func(old, s *swarmv1.NodeState) map[string]string {
			a := crud.Difference("state", old.GetState(), s.GetState())
			maps.Copy(a, pendingChange(old, s))
			return a
		},
		Attributes: func(v *table.View, s *swarmv1.NodeState) map[string]string {
			return map[string]string{"name": NodeName(v, s.GetNodeId()), "state": strings.ToLower(s.GetState().String()), "message": s.GetMessage()}
		},
		Subject: func(v *table.View, s *swarmv1.NodeState) crud.Subject {
			n, _ := v.Nodes.Get(s.GetNodeId())
			sub := NodeSubject(v, n)
			sub.ID, sub.Nodes = s.GetNodeId(), []string{s.GetNodeId()}
			return sub
		},
	})
}

// pendingChange returns the attribute "pending" if a node reports other facts than are accepted and
// did not report them before, and "accepted" if an operator has accepted facts. If a node takes its
// changes back, the attribute "pending" is "none".
func pendingChange(old, s *swarmv1.NodeState) map[string]string {
	accepted := facts.Of(old.GetDescription())
	if old.GetSessionEpoch() > 0 {
		if changes := facts.Changes(accepted, facts.Of(s.GetDescription())); len(changes) > 0 {
			return map[string]string{"accepted": strings.Join(changes, "; ")}
		}
	}
	if s.GetPending().EqualVT(old.GetPending()) {
		return nil
	}
	if s.GetPending() == nil {
		return map[string]string{"pending": "none"}
	}
	return map[string]string{"pending": strings.Join(facts.Changes(accepted, s.GetPending()), "; ")}
}

func revisions() crud.Events {
	return crud.EventsOf(table.Revision, crud.Display[*swarmv1.Revision]{
		Detail: true,
		Attributes: func(_ *table.View, r *swarmv1.Revision) map[string]string {
			return map[string]string{"service": r.GetServiceId(), "image": r.GetSpec().GetTaskTemplate().GetContainerSpec().GetImage()}
		},
		Subject: func(_ *table.View, r *swarmv1.Revision) crud.Subject {
			return crud.Subject{Services: []string{r.GetServiceId()}, Labels: []map[string]string{r.GetSpec().GetLabels()}}
		},
		Shown: ShownRevision,
	})
}

func taskStatuses() crud.Events {
	return crud.EventsOf(table.TaskStatus, crud.Display[*swarmv1.TaskStatus]{
		Of: Tasks().Word,
		Changed: func(old, s *swarmv1.TaskStatus) map[string]string {
			return crud.Difference("state", old.GetState(), s.GetState())
		},
		Action: taskAction,
		Attributes: func(v *table.View, s *swarmv1.TaskStatus) map[string]string {
			a := map[string]string{"state": strings.ToLower(s.GetState().String()), "err": s.GetErr()}
			if t, ok := v.Tasks.Get(s.GetTaskId()); ok {
				maps.Copy(a, taskAttributes(v, t))
			}
			if task.Terminal(s.GetState()) && s.GetContainerStatus() != nil {
				a["exitCode"] = strconv.Itoa(int(s.GetContainerStatus().GetExitCode()))
			}
			return a
		},
		Subject: func(v *table.View, s *swarmv1.TaskStatus) crud.Subject {
			if t, ok := v.Tasks.Get(s.GetTaskId()); ok {
				return Tasks().Subject(v, t)
			}
			return crud.Subject{}
		},
	})
}

// taskAction returns START if a task begins to run, and DIE if it ends, as Docker calls it.
func taskAction(old, s *swarmv1.TaskStatus) swarmv1.Event_Action {
	switch {
	case old.GetState() == s.GetState():
		return swarmv1.Event_UPDATE
	case s.GetState() == swarmv1.TaskState_RUNNING:
		return swarmv1.Event_START
	case task.Terminal(s.GetState()):
		return swarmv1.Event_DIE
	}
	return swarmv1.Event_UPDATE
}

func endpoints() crud.Events {
	return crud.EventsOf(table.Endpoint, crud.Display[*swarmv1.Endpoint]{
		Detail: true,
		Subject: func(_ *table.View, e *swarmv1.Endpoint) crud.Subject {
			return crud.Subject{Services: []string{e.GetServiceId()}}
		},
	})
}

func imageCopies() crud.Events {
	return crud.EventsOf(table.ImageCopy, crud.Display[*swarmv1.ImageCopy]{
		Detail: true,
		Attributes: func(_ *table.View, c *swarmv1.ImageCopy) map[string]string {
			return map[string]string{"digest": c.GetDigest(), "node": c.GetNodeId()}
		},
		Subject: func(_ *table.View, c *swarmv1.ImageCopy) crud.Subject {
			return crud.Subject{Nodes: []string{c.GetNodeId()}}
		},
	})
}

func runs() crud.Events {
	return crud.EventsOf(table.Run, crud.Display[*swarmv1.Run]{
		Attributes: func(v *table.View, r *swarmv1.Run) map[string]string {
			return map[string]string{"service": r.GetServiceId(), "name": ServiceName(v, r.GetServiceId()), "state": strings.ToLower(r.GetState().String())}
		},
		Subject: func(_ *table.View, r *swarmv1.Run) crud.Subject {
			return crud.Subject{Services: []string{r.GetServiceId()}}
		},
	})
}

func volumes() crud.Events {
	return crud.EventsOf(table.Volume, crud.Display[*swarmv1.Volume]{
		Attributes: func(_ *table.View, row *swarmv1.Volume) map[string]string {
			return map[string]string{"name": row.GetName(), "node": row.GetNodeId(), "driver": VolumeDriver(row)}
		},
		Subject: VolumeSubject,
		Shown:   ShownVolume,
	})
}

// clusters returns the Events of the cluster. They do not have the join tokens, which only
// GetCluster returns.
func clusters() crud.Events {
	return crud.EventsOf(table.Cluster, crud.Display[*swarmv1.Cluster]{
		Shown: func(c *swarmv1.Cluster) *swarmv1.Cluster {
			c = ShownCluster(c)
			if c.GetRootCa() != nil {
				c.RootCa.JoinTokens = nil
			}
			return c
		},
	})
}

// ShownCluster returns a copy of the cluster without private keys.
func ShownCluster(c *swarmv1.Cluster) *swarmv1.Cluster {
	c = c.CloneVT()
	if c.GetRootCa() != nil {
		c.RootCa.SigningKey = nil
	}
	for _, k := range c.GetGossipKeys() {
		k.Key = nil
	}
	if c.GetUnlockKey() != nil {
		c.UnlockKey.Key = nil
	}
	return c
}
