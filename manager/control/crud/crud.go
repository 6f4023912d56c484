package crud

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// Find returns the object that ref refers to: by its exact id, by its name, or by the beginning of
// its id, of MinPrefix characters or more. It returns ErrNotFound if there is no such object, and
// ErrInvalidArgument if ref is empty or refers to several objects.
func (k Kind[T]) Find(v *table.View, ref string) (T, error) {
	found, err := FindAny(ref, k.In(v))
	if err != nil {
		var none T
		return none, err
	}
	return found.(T), nil
}

// Matching yields the objects that a filter matches, ordered by id. A nil filter matches all.
func (k Kind[T]) Matching(v *table.View, f *swarmv1.Filter) iter.Seq[T] {
	return func(yield func(T) bool) {
		for row := range k.Table(v).All() {
			if Matches(f, k.Subject(v, row)) && !yield(row) {
				return
			}
		}
	}
}

// List returns the objects that a filter matches, in the order of Compare. A nil filter matches
// all.
func (k Kind[T]) List(v *table.View, f *swarmv1.Filter) []T {
	list := slices.Collect(k.Matching(v, f))
	if k.Compare != nil {
		slices.SortStableFunc(list, k.Compare)
	}
	return list
}

// ByName orders objects by their names.
func ByName[T any](name func(T) string) func(a, b T) int {
	return func(a, b T) int { return cmp.Compare(name(a), name(b)) }
}

// Create commits a new object with a name that is free, and returns the index of the commit. build
// makes the row and the changes of other rows that belong to it, like its claims, from the newest
// view. It may be called several times.
func (k Kind[T]) Create(ctx context.Context, w *Writer, name string,
	build func(v *table.View) (T, []*swarmv1.Change, error),
) (index uint64, err error) {
	id := ""
	index, err = w.Write(ctx, 0, func(v *table.View) ([]*swarmv1.Change, error) {
		if err := k.CheckNameFree(v, name); err != nil {
			return nil, err
		}
		row, others, err := build(v)
		if err != nil {
			return nil, err
		}
		id = row.GetId()
		return append([]*swarmv1.Change{table.Create(row)}, others...), nil
	})
	if err != nil {
		return 0, fmt.Errorf("create %s %s: %w", k.Word, name, err)
	}
	w.log.Info(k.Word+" created", k.Word, id, "name", name, "actor", Actor(ctx))
	return index, nil
}

// Update commits the change that edit makes to a copy of the newest object, and returns the index
// of the commit. edit also returns the changes of other rows that belong to its change. It may be
// called several times. If edit does not change the copy, Update commits nothing, whatever other
// changes edit has returned.
//
// Update returns ErrAborted if version is neither 0 nor the version of the stored object. It
// returns ErrNotFound if the object does not exist any more, or is being removed.
func (k Kind[T]) Update(ctx context.Context, w *Writer, found T, version uint64,
	edit func(v *table.View, row T) ([]*swarmv1.Change, error),
) (index uint64, err error) {
	name := k.Name(w.store.View(), found)
	return w.Write(ctx, version, func(v *table.View) ([]*swarmv1.Change, error) {
		old, ok := k.Table(v).Get(found.GetId())
		if !ok || k.marked(old) {
			return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s %s was removed meanwhile", k.Word, found.GetId()))
		}
		if err := CheckVersion(k.Word, name, version, old.GetMeta().GetVersion()); err != nil {
			return nil, err
		}
		row := old.CloneVT()
		changes, err := edit(v, row)
		if err != nil {
			return nil, err
		}
		if row.EqualVT(old) {
			return nil, nil
		}
		return append(changes, table.Update(row)), nil
	})
}

// Remove deletes an object and its claims, or marks the object for removal if the kind has Mark. It
// returns no error if the object does not exist any more. check, if not nil, returns an error if
// the object must stay, or the changes of other rows that belong to the removal. Remove calls check
// with a view that has everything that the leader had committed when Remove was called.
func (k Kind[T]) Remove(ctx context.Context, w *Writer, found T,
	check func(v *table.View, row T) ([]*swarmv1.Change, error),
) error {
	if check != nil {
		if err := w.CatchUp(ctx); err != nil {
			return err
		}
	}
	name := k.Name(w.store.View(), found)
	_, err := w.Write(ctx, 0, func(v *table.View) ([]*swarmv1.Change, error) {
		row, ok := k.Table(v).Get(found.GetId())
		if !ok || k.marked(row) {
			return nil, nil
		}
		return k.removal(v, row, check)
	})
	if errdefs.IsNotFound(err) {
		err = nil
	}
	if err == nil {
		w.log.Info(k.Word+" removed", k.Word, found.GetId(), "name", name, "actor", Actor(ctx))
	}
	return err
}

func (k Kind[T]) removal(v *table.View, row T, check func(*table.View, T) ([]*swarmv1.Change, error)) ([]*swarmv1.Change, error) {
	var others []*swarmv1.Change
	if check != nil {
		var err error
		others, err = check(v, row)
		if err != nil {
			return nil, err
		}
	}
	if k.Mark != nil {
		row = row.CloneVT()
		k.Mark(row)
		return append([]*swarmv1.Change{table.Update(row)}, others...), nil
	}
	return append(append([]*swarmv1.Change{table.Delete(row)}, others...), k.claimsOf(v, row)...), nil
}
