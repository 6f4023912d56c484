//go:build race

package planner

// raced: the race detector makes property tests ten times slower, so they run fewer rounds with it.
const raced = true
