package raftstore_test

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

// Example opens a store with one member in memory, writes a row, and follows the changes.
func Example() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	store, err := raftstore.Open(raftstore.Config{NodeID: "m1", Bootstrap: true}, raftstore.Deps{})
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()

	_, watcher := store.Watch(table.Service) // every change from here on
	defer watcher.Close()
	if _, err := store.Commit(ctx, "user jane", table.Create(&swarmv1.Service{Id: "s1", Name: "web"})); err != nil {
		fmt.Println(err)
		return
	}
	batch, err := watcher.Next(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range batch.Changes {
		fmt.Println("changed:", c.Table, c.Key)
	}

	// To change a row, clone it, edit the clone, and commit it with the version that was read.
	read, _ := batch.View.Services.ByName("WEB")
	edited := read.CloneVT()
	edited.Name = "www"
	_, err = store.Commit(ctx, "user jane", table.Update(edited))
	fmt.Println("first update:", err)
	_, err = store.Commit(ctx, "user jim", table.Update(read))
	fmt.Println("an update from an old view is aborted:", errdefs.IsAborted(err))

	stop()
	if err := <-done; err != nil {
		fmt.Println(err)
	}
	if err := store.Close(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// changed: service s1
	// first update: <nil>
	// an update from an old view is aborted: true
}
