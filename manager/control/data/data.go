package data

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
	"swarm/internal/spec"
	"swarm/manager/control/crud"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

// Deps are what a Server needs.
type Deps struct {
	Store  *raftstore.Store
	Writer *crud.Writer
}

// Server serves the RPCs of secrets and configs.
type Server struct {
	secrets objects[*swarmv1.Secret]
	configs objects[*swarmv1.Config]
}

// New makes a Server.
func New(deps Deps) *Server {
	return &Server{
		secrets: objects[*swarmv1.Secret]{
			store: deps.Store, writer: deps.Writer, kind: object.Secrets(), data: spec.SecretKind(),
			row: func(id string, sp *swarmv1.DataSpec, st *swarmv1.DataStatus) *swarmv1.Secret {
				return &swarmv1.Secret{Id: id, Spec: sp, Status: st}
			},
		},
		configs: objects[*swarmv1.Config]{
			store: deps.Store, writer: deps.Writer, kind: object.Configs(), data: spec.ConfigKind(),
			row: func(id string, sp *swarmv1.DataSpec, st *swarmv1.DataStatus) *swarmv1.Config {
				return &swarmv1.Config{Id: id, Spec: sp, Status: st}
			},
		},
	}
}

// objects serves the objects of one kind.
type objects[T object.DataRow[T]] struct {
	store  *raftstore.Store
	writer *crud.Writer
	kind   crud.Kind[T]
	data   spec.DataKind
	row    func(id string, sp *swarmv1.DataSpec, st *swarmv1.DataStatus) T
}

// create writes an object with its first version.
func (o *objects[T]) create(ctx context.Context, req *swarmv1.CreateDataRequest) (*swarmv1.DataInfo, error) {
	wanted, err := o.data.Spec(req.GetSpec())
	if err != nil {
		return nil, err
	}
	if err := o.data.CheckData(wanted, req.GetData()); err != nil {
		return nil, err
	}
	id := ident.NewID()
	_, err = o.kind.Create(ctx, o.writer, wanted.GetName(), func(*table.View) (T, []*swarmv1.Change, error) {
		first := newVersion(ctx, id, 1, wanted, req.GetData())
		guard := &swarmv1.Claim{Key: object.DataGuardKey(id), Owner: id}
		return o.row(id, wanted.CloneVT(), &swarmv1.DataStatus{Number: 1}), []*swarmv1.Change{table.Create(first), table.Create(guard)}, nil
	})
	if err != nil {
		return nil, err
	}
	return o.get(id)
}

func newVersion(ctx context.Context, id string, number uint64, sp *swarmv1.DataSpec, data []byte) *swarmv1.DataVersion {
	return &swarmv1.DataVersion{ObjectId: id, Number: number, Data: data, Actor: crud.Actor(ctx), Templating: sp.GetTemplating()}
}

// get returns an object with its users.
func (o *objects[T]) get(ref string) (*swarmv1.DataInfo, error) {
	v := o.store.View()
	found, err := o.kind.Find(v, ref)
	if err != nil {
		return nil, err
	}
	return o.info(found, usesIn(v)), nil
}

func (o *objects[T]) info(found T, uses map[string][]*swarmv1.DataUse) *swarmv1.DataInfo {
	return &swarmv1.DataInfo{Id: found.GetId(), Meta: found.GetMeta(), Spec: found.GetSpec(), Status: found.GetStatus(), Uses: uses[found.GetId()]}
}

// list returns the objects that the filter matches, ordered by name.
func (o *objects[T]) list(f *swarmv1.Filter) (*swarmv1.ListDataResponse, error) {
	v, out := o.store.View(), &swarmv1.ListDataResponse{}
	uses := usesIn(v)
	for _, found := range o.kind.List(v, f) {
		out.Objects = append(out.Objects, o.info(found, uses))
	}
	return out, nil
}

// update changes the labels of an object, or its current version. It writes nothing if the new data
// is that of the current version.
func (o *objects[T]) update(ctx context.Context, req *swarmv1.UpdateDataRequest) (*swarmv1.DataInfo, error) {
	found, err := o.kind.Find(o.store.View(), req.GetId())
	if err != nil {
		return nil, err
	}
	name := found.GetSpec().GetName()
	if err := o.checkUpdate(found, req); err != nil {
		return nil, fmt.Errorf("update %s %s: %w", o.data.Word, name, err)
	}
	_, err = o.kind.Update(ctx, o.writer, found, req.GetVersion(), func(v *table.View, row T) ([]*swarmv1.Change, error) {
		if req.Spec != nil {
			row.GetSpec().Labels = req.GetSpec().GetLabels()
		}
		switch {
		case len(req.GetData()) > 0:
			return o.addVersion(ctx, v, row, req.GetData()), nil
		case req.GetNumber() != 0:
			return nil, o.setCurrent(v, row, req.GetNumber())
		}
		return nil, nil
	})
	if err != nil {
		return nil, fmt.Errorf("update %s %s: %w", o.data.Word, name, err)
	}
	return o.get(found.GetId())
}

// checkUpdate returns an error if the update cannot be made, whatever the state of the object.
func (o *objects[T]) checkUpdate(found T, req *swarmv1.UpdateDataRequest) error {
	if len(req.GetData()) > 0 && req.GetNumber() != 0 {
		return errdefs.ErrInvalidArgument.WithMessage("new data and the number of an older version exclude each other: give one of them")
	}
	if req.Spec != nil {
		next := found.GetSpec().CloneVT()
		next.Labels = req.GetSpec().GetLabels()
		if _, err := o.data.Spec(next); err != nil {
			return err
		}
	}
	if len(req.GetData()) > 0 {
		return o.data.CheckData(found.GetSpec(), req.GetData())
	}
	return nil
}

// addVersion makes a version with the data the current one, and returns the change that writes it.
func (o *objects[T]) addVersion(ctx context.Context, v *table.View, row T, data []byte) []*swarmv1.Change {
	var last uint64
	for version := range v.DataVersionsOf(row.GetId()) {
		last = version.GetNumber()
		if version.GetNumber() == row.GetStatus().GetNumber() && string(version.GetData()) == string(data) {
			return nil
		}
	}
	makeCurrent(v, row, last+1)
	return []*swarmv1.Change{table.Create(newVersion(ctx, row.GetId(), last+1, row.GetSpec(), data))}
}

// setCurrent makes an older version current again.
func (o *objects[T]) setCurrent(v *table.View, row T, number uint64) error {
	if _, ok := v.DataVersions.Get(table.DataVersionKey(row.GetId(), number)); !ok {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf(
			"%s %s has no version %d: see `swarm %s history %s`", o.data.Word, row.GetSpec().GetName(), number, o.data.Word, row.GetSpec().GetName()))
	}
	if number != row.GetStatus().GetNumber() {
		makeCurrent(v, row, number)
	}
	return nil
}

// makeCurrent makes a version current. If services follow the object, its rollout begins.
func makeCurrent(v *table.View, row object.Data, number uint64) {
	st := row.GetStatus()
	st.Number, st.Rollout = number, nil
	for _, use := range usesIn(v)[row.GetId()] {
		if !use.GetReference().GetPinned() {
			st.Rollout = &swarmv1.DataRollout{}
		}
	}
}

// versions lists the versions of an object without their data, oldest first.
func (o *objects[T]) versions(ref string) (*swarmv1.ListDataVersionsResponse, error) {
	v := o.store.View()
	found, err := o.kind.Find(v, ref)
	if err != nil {
		return nil, err
	}
	users := usersByVersion(v, found.GetId())
	out := &swarmv1.ListDataVersionsResponse{}
	for version := range v.DataVersionsOf(found.GetId()) {
		out.Versions = append(out.Versions, &swarmv1.DataVersionInfo{
			Number: version.GetNumber(), CreatedAt: version.GetMeta().GetCreatedAt(), Actor: version.GetActor(), Size: uint64(len(version.GetData())),
			Current: version.GetNumber() == found.GetStatus().GetNumber(), Services: users[version.GetNumber()],
		})
	}
	return out, nil
}

// remove deletes an object with its versions, unless a service uses it.
func (o *objects[T]) remove(ctx context.Context, ref string) (*swarmv1.RemoveResponse, error) {
	found, err := o.kind.Find(o.store.View(), ref)
	if err != nil {
		return nil, err
	}
	err = o.kind.Remove(ctx, o.writer, found, func(v *table.View, row T) ([]*swarmv1.Change, error) {
		if users := usersOf(v, row.GetId()); len(users) > 0 {
			return nil, o.inUse(row, users)
		}
		var changes []*swarmv1.Change
		if guard, ok := v.Claims.Get(object.DataGuardKey(row.GetId())); ok {
			changes = append(changes, table.Delete(guard))
		}
		for version := range v.DataVersionsOf(row.GetId()) {
			changes = append(changes, table.Delete(version))
		}
		return changes, nil
	})
	if err != nil {
		return nil, fmt.Errorf("remove %s %s: %w", o.data.Word, found.GetSpec().GetName(), err)
	}
	return &swarmv1.RemoveResponse{}, nil
}
