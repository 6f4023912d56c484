package planner

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	swarmv1 "swarm/proto/swarm/v1"
)

// TestProperty_OneTaskOfASlotAtATime runs random faults against two services, one of which is
// single-writer: it cuts and heals links, kills daemons and runtimes, drains nodes, removes them by
// force, updates services, rolls back and changes leaders. checkWorld tests the invariant at every
// step. After the faults the services must run again. ROUNDS is the number of seeds, and SEED is
// the first seed.
func TestProperty_OneTaskOfASlotAtATime(t *testing.T) {
	first, rounds := 0, 40
	for name, value := range map[string]*int{"SEED": &first, "ROUNDS": &rounds} {
		if text := os.Getenv(name); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			*value = n
		}
	}
	for seed := first; seed < first+rounds; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, uint64(seed))
			for _, s := range []string{"db", "web"} {
				w.addService(s, replicas(1+uint64(w.IntN(2))), func(s *swarmv1.ServiceSpec) {
					s.SingleWriter = s.Name == "db"
					s.TaskTemplate.RestartPolicy.Delay = durationpb.New(time.Second)
					s.UpdateConfig.FailureAction = swarmv1.UpdateConfig_FailureAction(w.IntN(3))
				})
			}
			for range 40 * int(time.Second/worldStep) {
				if w.rarely(12) {
					w.disturb()
				}
				w.step()
			}
			w.calm()
			for range 120 * int(time.Second/worldStep) {
				w.step()
			}
			for _, s := range []string{"db", "web"} {
				if got, want := w.running(s), w.replicas(s); got != want {
					t.Errorf("%d tasks of service %s run, want %d:\n%s", got, s, want, w)
				}
			}
		})
	}
}

// disturb causes one random fault or change.
func (w *world) disturb() {
	hosts := slices.DeleteFunc(w.sorted(), func(h *host) bool { return w.rows["1/"+h.id] == nil })
	h := hosts[w.IntN(len(hosts))]
	service := []string{"db", "web"}[w.IntN(2)]
	switch w.IntN(16) {
	case 0, 1, 2:
		h.linked = false
	case 3, 4:
		h.linked = true
	case 5:
		h.daemon, h.session, h.synced, h.messages = false, false, false, nil
	case 6:
		h.daemon = true
	case 7:
		h.runtime = !h.runtime
	case 8:
		w.setAvailability(h.id, swarmv1.NodeSpec_DRAIN)
	case 9, 10:
		w.setAvailability(h.id, swarmv1.NodeSpec_ACTIVE)
	case 11, 12:
		w.edit(service, image(fmt.Sprintf("docker.io/library/web:%d", w.IntN(1000))))
	case 13:
		w.edit(service, replicas(uint64(w.IntN(3))))
	case 14:
		w.changeLeader()
	case 15:
		if w.rarely(2) {
			w.reject()
		} else if len(hosts) > 2 {
			w.remove(h)
		}
	}
}

// reject makes workers reject every second task from now on, or none.
func (w *world) reject() {
	if w.rarely(2) {
		w.rejects = never
		return
	}
	w.rejects = func(*swarmv1.Task) bool { return w.rarely(2) }
}

// remove removes a node by force, whatever runs there, and adds another node.
func (w *world) remove(h *host) {
	w.drop("1/" + h.id)
	w.drop("2/" + h.id)
	h.lose()
	w.join()
}

// calm ends all faults.
func (w *world) calm() {
	w.rejects, w.maxDelay = never, worldDelay/20
	for _, h := range w.sorted() {
		h.linked, h.daemon, h.runtime = true, true, true
		if w.rows["1/"+h.id] != nil {
			w.setAvailability(h.id, swarmv1.NodeSpec_ACTIVE)
		}
	}
	for _, s := range []string{"db", "web"} {
		w.edit(s, replicas(2), image("docker.io/library/web:last"))
	}
}
