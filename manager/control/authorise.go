package control

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/members"
	"swarm/internal/transport"
	"swarm/manager/control/crud"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// Verb is what a call does to objects of its kind.
type Verb string

// The verbs of the table.
const (
	Get    Verb = "get"
	List   Verb = "list"
	Watch  Verb = "watch"
	Create Verb = "create"
	Update Verb = "update"
	Delete Verb = "delete"
	Run    Verb = "run"
	Serve  Verb = "serve"
)

// callerSet is a set of kinds of callers.
type callerSet uint8

const (
	anonymous   callerSet = 1 << iota // a caller without a certificate
	worker                            // a node of the cluster, whatever its role
	manager                           // a node of the cluster with the role manager
	user                              // a person with a certificate of `swarm credential create`
	local                             // a process that uses this host's socket
	unknownNode                       // a node that the replica does not know; the handler decides

	// expired is not a kind of caller but an addition to a rule: the callers that the rule permits
	// may also have a certificate that has expired.
	expired
)

// anyNode is every node of the cluster.
const anyNode = worker | manager

// Rule says what an RPC does, and which callers may call it.
type Rule struct {
	Verb Verb
	Kind string
	who  callerSet
}

// Rules returns the table of all RPCs of all services, by full method name. A call that is not in
// the table is refused. A test checks that every RPC of the protocol is in it.
func Rules() map[string]Rule {
	rules := nodeRules()
	maps.Copy(rules, controlRules())
	return rules
}

// people are the persons who use the cluster, with a credential or on this host.
const people = user | local

// nodeRules are the RPCs of all services but Control.
func nodeRules() map[string]Rule {
	return map[string]Rule{
		"/swarm.v1.CA/Roots":            {Get, "root", anonymous | anyNode | people | expired | unknownNode},
		"/swarm.v1.CA/Join":             {Create, "node", anonymous}, // the handler checks the proof of a token
		"/swarm.v1.CA/Renew":            {Update, "certificate", anyNode | expired | unknownNode},
		"/swarm.v1.CA/CreateCredential": {Create, "credential", people},

		// A removed node must learn that it was removed. Only the handler knows for certain: the
		// replica may lag, and the handler asks the leader.
		"/swarm.v1.Dispatcher/Session":         {Serve, "session", anyNode | unknownNode},
		"/swarm.v1.Dispatcher/Holders":         {List, "image copy", anyNode},
		"/swarm.v1.Dispatcher/AwaitProgrammed": {Get, "session", anyNode},
		"/swarm.v1.Liveness/Report":            {Serve, "session", manager},
		"/swarm.v1.Raft/Propose":               {Serve, "log", manager},
		"/swarm.v1.Raft/ReadIndex":             {Serve, "log", manager},
		"/swarm.v1.Raft/Applied":               {Serve, "log", manager},
		"/swarm.v1.Raft/Configure":             {Serve, "log", manager},

		"/swarm.v1.Worker/Logs":        {Get, "log", manager},
		"/swarm.v1.Worker/Exec":        {Run, "task", manager},
		"/swarm.v1.Worker/PortForward": {Run, "task", manager},
		"/swarm.v1.Worker/PullImage":   {Create, "image copy", manager},
		"/swarm.v1.Worker/PushImage":   {Get, "image copy", manager},
		"/swarm.v1.Worker/RemoveImage": {Delete, "image copy", manager},
		"/swarm.v1.Worker/Network":     {Get, "network", manager},

		"/swarm.v1.Disk/Usage":    {Get, "disk", manager},
		"/swarm.v1.Disk/Prune":    {Delete, "disk", manager},
		"/swarm.v1.Disks/Usage":   {Get, "disk", people},
		"/swarm.v1.Disks/Prune":   {Delete, "disk", people},
		"/swarm.v1.Disks/Release": {Delete, "image copy", anyNode},

		"/swarm.v1.NodeStats/Usage":     {Get, "node", manager},
		"/swarm.v1.NodeStats/Processes": {Get, "task", manager},
		"/swarm.v1.Stats/WatchStats":    {Watch, "task", people},
		"/swarm.v1.Stats/GetProcesses":  {Get, "task", people},

		"/swarm.v1.NodeVolumes/Make":         {Create, "volume", manager},
		"/swarm.v1.NodeVolumes/Drop":         {Delete, "volume", manager},
		"/swarm.v1.NodeVolumes/Export":       {Get, "volume", manager},
		"/swarm.v1.NodeVolumes/Import":       {Create, "volume", manager},
		"/swarm.v1.NodeVolumes/SendMoved":    {Get, "volume", manager},
		"/swarm.v1.NodeVolumes/ListReceived": {Get, "volume", manager},
		"/swarm.v1.NodeVolumes/ReceiveMoved": {Create, "volume", manager},
		"/swarm.v1.NodeVolumes/PlaceMoved":   {Create, "volume", manager},
		"/swarm.v1.NodeVolumes/DiscardMoved": {Delete, "volume", manager},
		"/swarm.v1.Volumes/MoveVolume":       {Update, "volume", people},
		"/swarm.v1.Volumes/AbandonMove":      {Update, "volume", people},
		"/swarm.v1.Volumes/BackupVolume":     {Get, "volume", people},
		"/swarm.v1.Volumes/RestoreVolume":    {Create, "volume", people},
		"/swarm.v1.Volumes/CloneVolume":      {Create, "volume", people},
		"/swarm.v1.Volumes/ListVolumes":      {List, "volume", people},
		"/swarm.v1.Volumes/CreateVolume":     {Create, "volume", people},
		"/swarm.v1.Volumes/RemoveVolume":     {Delete, "volume", people},
		"/swarm.v1.Volumes/PruneVolumes":     {Delete, "volume", people},

		"/swarm.v1.Daemon/Init":  {Create, "cluster", local},
		"/swarm.v1.Daemon/Join":  {Create, "node", local},
		"/swarm.v1.Daemon/Leave": {Delete, "node", local},
		"/swarm.v1.Daemon/Info":  {Get, "host", people},

		"/swarm.v1.Admission/Probe": {Get, "host", anonymous}, // the handler checks the proof of a token
		"/swarm.v1.Doctor/Survey":   {Get, "host", local},
		"/swarm.v1.Doctor/Probe":    {Get, "host", anyNode},
	}
}

// controlRules are the RPCs of Control.
func controlRules() map[string]Rule {
	return map[string]Rule{
		"/swarm.v1.Control/GetCluster":       {Get, "cluster", people},
		"/swarm.v1.Control/UpdateCluster":    {Update, "cluster", people},
		"/swarm.v1.Control/GetNode":          {Get, "node", people},
		"/swarm.v1.Control/ListNodes":        {List, "node", people},
		"/swarm.v1.Control/UpdateNode":       {Update, "node", people},
		"/swarm.v1.Control/AcceptNode":       {Update, "node", people},
		"/swarm.v1.Control/RemoveNode":       {Delete, "node", people},
		"/swarm.v1.Control/GetService":       {Get, "service", people},
		"/swarm.v1.Control/ListServices":     {List, "service", people},
		"/swarm.v1.Control/WaitService":      {Watch, "service", people},
		"/swarm.v1.Control/CreateService":    {Create, "service", people},
		"/swarm.v1.Control/UpdateService":    {Update, "service", people},
		"/swarm.v1.Control/RemoveService":    {Delete, "service", people},
		"/swarm.v1.Control/ListRevisions":    {List, "revision", people},
		"/swarm.v1.Control/RunService":       {Update, "service", people},
		"/swarm.v1.Control/ListRuns":         {List, "run", people},
		"/swarm.v1.Control/GetTask":          {Get, "task", people},
		"/swarm.v1.Control/ListTasks":        {List, "task", people},
		"/swarm.v1.Control/GetImage":         {Get, "image", people},
		"/swarm.v1.Control/ListImages":       {List, "image", people},
		"/swarm.v1.Control/LoadImage":        {Create, "image", people},
		"/swarm.v1.Control/PullImage":        {Create, "image", people},
		"/swarm.v1.Control/PushImage":        {Get, "image", people},
		"/swarm.v1.Control/TagImage":         {Create, "image", people},
		"/swarm.v1.Control/RemoveImage":      {Delete, "image", people},
		"/swarm.v1.Control/Login":            {Get, "registry", people},
		"/swarm.v1.Control/ListCredentials":  {List, "credential", people},
		"/swarm.v1.Control/RemoveCredential": {Delete, "credential", people},

		"/swarm.v1.Control/CreateSecret":       {Create, "secret", people},
		"/swarm.v1.Control/GetSecret":          {Get, "secret", people},
		"/swarm.v1.Control/ListSecrets":        {List, "secret", people},
		"/swarm.v1.Control/UpdateSecret":       {Update, "secret", people},
		"/swarm.v1.Control/RemoveSecret":       {Delete, "secret", people},
		"/swarm.v1.Control/ListSecretVersions": {List, "secret", people},
		"/swarm.v1.Control/CreateConfig":       {Create, "config", people},
		"/swarm.v1.Control/GetConfig":          {Get, "config", people},
		"/swarm.v1.Control/ListConfigs":        {List, "config", people},
		"/swarm.v1.Control/UpdateConfig":       {Update, "config", people},
		"/swarm.v1.Control/RemoveConfig":       {Delete, "config", people},
		"/swarm.v1.Control/ListConfigVersions": {List, "config", people},

		"/swarm.v1.Control/CreateNetwork": {Create, "network", people},
		"/swarm.v1.Control/GetNetwork":    {Get, "network", people},
		"/swarm.v1.Control/SurveyNetwork": {Get, "network", people},
		"/swarm.v1.Control/ListNetworks":  {List, "network", people},
		"/swarm.v1.Control/RemoveNetwork": {Delete, "network", people},
		"/swarm.v1.Control/PruneNetworks": {Delete, "network", people},
		"/swarm.v1.Control/Watch":         {Watch, "event", people},
		"/swarm.v1.Control/Logs":          {Get, "log", people},
		"/swarm.v1.Control/Exec":          {Run, "task", people},
		"/swarm.v1.Control/PortForward":   {Run, "task", people},
	}
}

// Members returns the role of a node, and whether it is a member of the cluster now. A node with a
// certificate for an old key is not a member, unless its call began while the key was current
// (transport.AuthInfo.Established).
type Members func(who transport.AuthInfo) (role swarmv1.NodeSpec_Role, member bool)

// MembersOf returns Members that read the replica at every call, so that a demotion or a removal
// takes effect at once.
func MembersOf(store *raftstore.Store) Members {
	return func(who transport.AuthInfo) (swarmv1.NodeSpec_Role, bool) {
		n, ok := store.View().Nodes.Get(who.NodeID())
		return n.GetSpec().GetRole(), ok && (who.Established || members.Allows(n, who.Peer.PublicKey()))
	}
}

// Credentials returns the row of a user's credential, or nil if there is none. Its errors are
// transient.
type Credentials func(ctx context.Context, who transport.AuthInfo) (*swarmv1.Credential, error)

// CredentialsOf returns Credentials that read the replica at every call, so that a removal takes
// effect at once. If the replica has no row, they first wait until it has caught up with the
// leader, because the credential may be new. They catch up at most once a second, and not for a
// call that runs already: the replica had the row when the call began.
func CredentialsOf(store *raftstore.Store) Credentials {
	fresh := raftstore.NewRefresher(store)
	return func(ctx context.Context, who transport.AuthInfo) (*swarmv1.Credential, error) {
		id := who.Credential()
		if row, ok := store.View().Credentials.Get(id); ok || who.Established {
			return row, nil
		}
		ctx, cancel := context.WithTimeout(ctx, crud.CatchUpTimeout)
		defer cancel()
		view, err := fresh.View(ctx)
		if err != nil {
			return nil, err
		}
		row, _ := view.Credentials.Get(id)
		return row, nil
	}
}

// Authoriser decides, by the tables Rules and Protocols, which calls and connections are allowed.
type Authoriser struct {
	rules       map[string]Rule
	protocols   map[string]Rule
	members     Members
	credentials Credentials
}

// NewAuthoriser makes an Authoriser.
func NewAuthoriser(members Members, credentials Credentials) *Authoriser {
	return &Authoriser{rules: Rules(), protocols: Protocols(), members: members, credentials: credentials}
}

// Authorise returns nil if the caller in ctx may call the method, or else ErrPermissionDenied or
// ErrUnauthenticated. Other errors are transient.
func (a *Authoriser) Authorise(ctx context.Context, fullMethod string) error {
	who, err := transport.FromContext(ctx)
	if err != nil {
		return err
	}
	rule, ok := a.rules[fullMethod]
	if !ok {
		return errdefs.ErrPermissionDenied.WithMessage(fullMethod + " is not served here: no rule allows it")
	}
	now := time.Now()
	if err := a.judge(who, rule, now); err != nil || who.User() == "" {
		return err
	}
	return a.judgeCredential(ctx, who, now)
}

// judgeCredential returns an error if the credential of a user was removed or has expired. judge
// has checked the certificate's end. judgeCredential checks the end in the row too: `swarm
// credential ls` shows the rows, and what it shows must be true.
func (a *Authoriser) judgeCredential(ctx context.Context, who transport.AuthInfo, now time.Time) error {
	row, err := a.credentials(ctx, who)
	switch {
	case err != nil:
		return fmt.Errorf("look up the credential of %s: %w", who, err)
	case row == nil || row.GetName() != who.User():
		return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf(
			"credential %.12s of %s was revoked: create another with `swarm credential create %s` on a manager", who.Credential(), who, who.User()))
	case now.After(row.GetUntil().AsTime()):
		return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf(
			"credential of %s expired at %s: create another with `swarm credential create %s` on a manager", who, row.GetUntil().AsTime().Format(time.RFC3339), who.User()))
	}
	return nil
}

// judge decides by one rule. It does not look at the rows of users' credentials: judgeCredential
// does.
func (a *Authoriser) judge(who transport.AuthInfo, rule Rule, now time.Time) error {
	may := func(c callerSet) bool { return rule.who&c != 0 }
	switch {
	case who.Expired(now) && !may(expired):
		return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("certificate of %s expired at %s: renew it", who, who.Peer.NotAfter.UTC().Format(time.RFC3339)))
	case who.Local != nil && may(local), who.User() != "" && may(user), who.Anonymous() && may(anonymous):
		return nil
	case who.Anonymous():
		return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("to %s a %s, a certificate is needed: join the cluster, or use one of `swarm credential create`", rule.Verb, rule.Kind))
	case who.NodeID() == "":
		return denied(who, rule)
	}
	role, member := a.members(who)
	switch {
	case !member && may(unknownNode):
		return nil
	case !member:
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("%s is not a member of this cluster: it was removed, has joined this moment, or its certificate is not the newest", who))
	case may(worker), role == swarmv1.NodeSpec_MANAGER && may(manager):
		return nil
	}
	return denied(who, rule)
}

// denied returns the error for a caller that a rule does not name.
func denied(who transport.AuthInfo, rule Rule) error {
	return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("%s may not %s a %s", who, rule.Verb, rule.Kind))
}
