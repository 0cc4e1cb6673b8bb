// Package soak runs the library for a long time under faults, and kills it while it writes. In CI
// its tests are short. The long forms, whose figures are in docs/notes/RELIABILITY.md, are:
//
//	go test ./internal/soak -run TestSoak -soak.duration 30m -timeout 1h -v
//	go test ./internal/soak -run TestKilled -soak.kills 1000 -timeout 1h -v
//	cd blobstorage && go test . -run TestKilled -soak.kills 1000 -timeout 1h -v
package soak
