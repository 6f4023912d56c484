package service

import (
	"fmt"

	"github.com/containerd/errdefs"

	"swarm/internal/spec"
	"swarm/manager/control/crud"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// bind replaces the names in a spec by the ids of the objects. It returns ErrNotFound if one does
// not exist.
func bind(v *table.View, s *swarmv1.ServiceSpec) error {
	if err := bindNetworks(v, s.GetTaskTemplate().GetNetworks()); err != nil {
		return err
	}
	c := s.GetTaskTemplate().GetContainerSpec()
	for _, ref := range c.GetSecrets() {
		if err := bindData(v, object.Secrets(), spec.SecretKind(), ref); err != nil {
			return err
		}
	}
	for _, ref := range c.GetConfigs() {
		if err := bindData(v, object.Configs(), spec.ConfigKind(), ref); err != nil {
			return err
		}
	}
	return nil
}

// bindData sets the id, the name and the version of a reference to a secret or config. A reference
// without a version gets the current one. A reference that follows the object keeps the version
// that it has: RollOut brings it the current one.
func bindData[T object.DataRow[T]](v *table.View, objects crud.Kind[T], kind spec.DataKind, ref *swarmv1.DataReference) error {
	rows := objects.Table(v)
	row, ok := rows.Get(ref.GetId())
	if !ok || ref.GetName() != "" && ref.GetName() != row.GetSpec().GetName() {
		row, ok = rows.ByName(ref.GetName())
	}
	if !ok {
		name := ref.GetName()
		if name == "" {
			name = ref.GetId()
		}
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf(
			"%s %s not found: create it with `swarm %s create %s FILE`, or look at `swarm %s ls`", kind.Word, name, kind.Word, name, kind.Word))
	}
	if ref.GetId() != row.GetId() {
		ref.Previous, ref.PreviousUntil = 0, nil
		if ref.GetId() != "" && !ref.GetPinned() { // The number is that of a former object of the name.
			ref.Number = 0
		}
	}
	ref.Id, ref.Name = row.GetId(), row.GetSpec().GetName()
	if ref.GetNumber() == 0 {
		ref.Number = row.GetStatus().GetNumber()
	}
	for _, number := range []uint64{ref.GetNumber(), ref.GetPrevious()} {
		if _, ok := v.DataVersions.Get(table.DataVersionKey(row.GetId(), number)); !ok && number != 0 {
			return errdefs.ErrNotFound.WithMessage(fmt.Sprintf(
				"%s %s has no version %d: see `swarm %s history %s`", kind.Word, ref.GetName(), number, kind.Word, ref.GetName()))
		}
	}
	return nil
}

// holdData returns changes that the store refuses if a secret or config of next, or a version that
// next names, is removed at the same moment. A reference of the current revision needs none:
// what it names is in use already.
func holdData(v *table.View, service string, next *swarmv1.ServiceSpec) (changes []*swarmv1.Change) {
	svc, _ := v.Services.Get(service)
	current, _ := v.Revision(service, svc.GetRevision())
	held := map[string]bool{}
	for ref := range spec.DataReferences(current.GetSpec()) {
		held[ref.GetId()], held[table.DataVersionKey(ref.GetId(), ref.GetNumber())] = true, true
	}
	hold := func(key string, row table.Row, ok bool) {
		if ok && !held[key] {
			held[key] = true
			changes = append(changes, table.Touch(row))
		}
	}
	for ref := range spec.DataReferences(next) {
		guard, ok := v.Claims.Get(object.DataGuardKey(ref.GetId()))
		hold(ref.GetId(), guard, ok)
		if !isCurrent(v, ref) { // Only versions that are not current are removed while the object exists.
			key := table.DataVersionKey(ref.GetId(), ref.GetNumber())
			version, ok := v.DataVersions.Get(key)
			hold(key, version, ok)
		}
	}
	return changes
}

// isCurrent reports whether a reference names the current version of its object.
func isCurrent(v *table.View, ref *swarmv1.DataReference) bool {
	if row, ok := v.Secrets.Get(ref.GetId()); ok {
		return row.GetStatus().GetNumber() == ref.GetNumber()
	}
	row, _ := v.Configs.Get(ref.GetId())
	return row.GetStatus().GetNumber() == ref.GetNumber()
}
