package session

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/bounds"
	"swarm/internal/logsample"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/lease"
	"swarm/worker/state"
)

// Config is what the node tells its managers, and how long it waits for them.
type Config struct {
	// MachineID, Addr, DataPathAddr and Port are told to the managers.
	MachineID    string
	Addr         string
	DataPathAddr string
	Port         uint32
	// Epoch and Index are the newest cluster epoch and store index that this node has applied.
	Epoch, Index uint64
	// ConnectTimeout is how long a manager may take to welcome this node.
	ConnectTimeout time.Duration
	// MaxBackoff caps the pause between two rounds over all managers.
	MaxBackoff time.Duration
	// SinceBoot is the clock of leases.
	SinceBoot func() time.Duration
}

// Images tells a session which images the node holds.
type Images interface {
	// List returns the images whose blobs are all on this node.
	List(ctx context.Context) ([]*swarmv1.Image, error)
	// Changed returns a channel that is closed when List would return something else. Call it
	// before List.
	Changed() <-chan struct{}
}

// Volumes tells a session which volumes the node has.
type Volumes interface {
	// List returns the volumes with a name.
	List(ctx context.Context) ([]*swarmv1.Volume, error)
	// Changed returns a channel that is closed when List would return something else. Call it
	// before List.
	Changed() <-chan struct{}
}

// Deps are the live objects that a Client works with. Volumes, Renewed, OnNode, OnContact and
// Programmed are optional.
type Deps struct {
	Log    *slog.Logger
	State  *state.DB
	Lease  *lease.Lease
	Images Images
	// Volumes are those of the node. Nil: the node reports none.
	Volumes Volumes
	// Managers returns the managers to try. It is called for every round.
	Managers func() []*swarmv1.Peer
	// Dial returns a connection to a node. The connection belongs to the owner of Dial: the Client
	// does not close it.
	Dial func(nodeID string) (grpc.ClientConnInterface, error)
	// Renewed returns a channel that the next renewal of this node's certificate closes.
	Renewed func() <-chan struct{}
	// Describe returns what the node is. It is called at the start of each session and after
	// Client.Redescribe.
	Describe func() *swarmv1.NodeDescription
	// Apply acts on a message of assignments. The session has checked its order, age and form.
	Apply func(*swarmv1.Assignments)
	// Programmed returns nil once the kernel and the name server reflect everything that Apply was
	// given so far. The session repeats a call that fails. Without it, every change counts as
	// programmed.
	Programmed func(ctx context.Context) error
	// OnNode is given what a manager says about this node. It must not block.
	OnNode func(*swarmv1.NodeUpdate)
	// OnContact is told when a session begins and ends. It must not block.
	OnContact func(managerID string, up bool)
}

// Client is the worker's side of its sessions: it has at most one at a time. Its methods may be
// called concurrently.
type Client struct {
	cfg     Config
	deps    Deps
	contact *contact
	reports *reports
	barrier *barrier
	sampled *logsample.Sampler // for log lines about what managers send, of which there may be many

	leaseLength atomic.Int64 // how long the lease of the newest session lasts after a confirmed heartbeat, in ns

	redescribe chan struct{} // one token: the description changed

	// Each set function closes its channel. It may be called more than once.
	synced            chan struct{} // the first complete set of assignments is applied
	setSynced         func()
	departing         chan struct{} // the host goes down
	setDeparting      func()
	departureAcked    chan struct{} // a manager has acknowledged that the host goes down
	setDepartureAcked func()
}

// New returns a Client. It does nothing before Run.
func New(cfg Config, deps Deps) *Client {
	c := &Client{
		cfg: cfg, deps: deps,
		contact:        newContact(cfg.Epoch, cfg.Index),
		reports:        newReports(),
		barrier:        newBarrier(),
		sampled:        logsample.New(deps.Log),
		redescribe:     make(chan struct{}, 1),
		synced:         make(chan struct{}),
		departing:      make(chan struct{}),
		departureAcked: make(chan struct{}),
	}
	c.setSynced = sync.OnceFunc(func() { close(c.synced) })
	c.setDeparting = sync.OnceFunc(func() { close(c.departing) })
	c.setDepartureAcked = sync.OnceFunc(func() { close(c.departureAcked) })
	return c
}

// Redescribe makes the client call Deps.Describe again and tell the manager.
func (c *Client) Redescribe() {
	select {
	case c.redescribe <- struct{}{}:
	default:
	}
}

// Seen returns the store index of the newest state that this node has applied, and whether it has
// a session.
func (c *Client) Seen() (index uint64, connected bool) {
	c.contact.mu.Lock()
	defer c.contact.mu.Unlock()
	return c.contact.index, c.contact.manager != ""
}

// Refusal returns why the managers do not serve this node, in a manager's words: for example, its
// disk is a copy of another node's disk. It is nil if a manager serves the node, and if no manager
// has answered yet.
func (c *Client) Refusal() error {
	c.contact.mu.Lock()
	defer c.contact.mu.Unlock()
	return c.contact.refusal
}

// Conn returns a connection to the manager of the session; ErrUnavailable if there is no session.
func (c *Client) Conn() (grpc.ClientConnInterface, error) {
	c.contact.mu.Lock()
	manager := c.contact.manager
	c.contact.mu.Unlock()
	if manager == "" {
		return nil, errdefs.ErrUnavailable.WithMessage("no manager is in contact")
	}
	return c.deps.Dial(manager)
}

// OutOfContact waits until delay has passed and there has been no session for 10 s. Then it returns
// true: the worker acts without managers. It returns false as soon as there is a session or ctx
// ends.
func (c *Client) OutOfContact(ctx context.Context, delay time.Duration) bool {
	return c.contact.outOfContact(ctx, delay)
}

// Synced returns a channel that the first complete set of assignments closes, once it is applied.
func (c *Client) Synced() <-chan struct{} { return c.synced }

// IsSynced reports whether the managers have said which tasks this node has.
func (c *Client) IsSynced() bool {
	select {
	case <-c.synced:
		return true
	default:
		return false
	}
}

// AwaitSynced waits until the managers have said which tasks this node has, until there has been no
// session for 10 s, so that the worker acts without managers, or until ctx ends.
func (c *Client) AwaitSynced(ctx context.Context) {
	for !c.IsSynced() && ctx.Err() == nil {
		changed := c.contact.changes()
		if c.contact.outOfContact(ctx, 0) {
			return
		}
		select { // There is a session.
		case <-c.synced:
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// Report queues a task's status for the managers, and state.db keeps it. An urgent status is sent
// at once, any other with the next heartbeat or the next urgent one. Report cuts Err and Message to
// the length that managers accept, because containers choose some of their text: a report that
// managers refuse would be sent again in every session, and would delay the statuses of all other
// tasks.
func (c *Client) Report(s *swarmv1.TaskStatus, urgent bool) {
	if len(s.Err) > bounds.MaxText || len(s.Message) > bounds.MaxText {
		s = s.CloneVT()
		s.Err, s.Message = bounds.Text(s.Err, bounds.MaxText), bounds.Text(s.Message, bounds.MaxText)
	}
	c.deps.State.SetStatus(s)
	c.reports.add(s, urgent)
}

// Resend queues a status that an earlier process of this node left unacknowledged in state.db.
func (c *Client) Resend(s *swarmv1.TaskStatus) { c.reports.add(s, true) }

// Drop takes the status of a task that is not assigned any more out of the queue.
func (c *Client) Drop(taskID string) { c.reports.drop(taskID) }

// acked records that the managers have the statuses of a report.
func (c *Client) acked(sequence uint64) {
	for _, s := range c.reports.ack(sequence) {
		c.deps.State.SetAcknowledged(s.TaskId)
	}
}

// apply hands a message of assignments to the worker.
func (c *Client) apply(msg *swarmv1.Assignments) {
	c.deps.Apply(msg)
	if msg.Complete {
		c.setSynced()
	}
}

// describe returns what the node is, cut to what managers accept: a host with thousands of routes
// has a large description.
func (c *Client) describe() *swarmv1.NodeDescription {
	d := c.deps.Describe()
	return bounds.Description(d, d.GetHostname())
}
