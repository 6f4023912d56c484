package main

import (
	"os"
	"os/signal"
	"syscall"
)

// ignoreHangups lets a process go on when its terminal or the reader of its output goes away. The signals are caught, not
// ignored: processes that it starts would inherit that.
func ignoreHangups() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGHUP) }
