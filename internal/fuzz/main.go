// Fuzz runs the fuzz targets of every module.
//
//	go run ./internal/fuzz -total 60s          as many as the time allows, in another order each time
//	go run ./internal/fuzz -each 10m           all of them, on a schedule
//	go run ./internal/fuzz -each 1m -run Open  those that match
//
// What a target fails on is kept in its testdata/fuzz, and is a test from then on. What it learnt is
// in Go's build cache.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	total := flag.Duration("total", 0, "time for all together, with that for building them; 0 means any")
	each := flag.Duration("each", 2*time.Second, "time for each target")
	pattern := flag.String("run", "", "a regular expression of the lines that -list prints; empty means all")
	list := flag.Bool("list", false, "only list the targets")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *total, *each, *pattern, *list); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

// target is a fuzz target, and the folder of its package.
type target struct{ dir, name string }

func run(ctx context.Context, out io.Writer, total, each time.Duration, pattern string, list bool) error {
	wanted, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	targets, err := find(".", wanted)
	if err != nil {
		return err
	}
	if len(targets) == 0 {
		return errors.New("no fuzz target matches; run it in the repository's top folder")
	}
	if list {
		for _, t := range targets {
			fmt.Fprintln(out, t.dir, t.name)
		}
		return nil
	}
	if total > 0 {
		rand.Shuffle(len(targets), func(i, j int) { targets[i], targets[j] = targets[j], targets[i] })
	}
	var failures []error
	begin, longest := time.Now(), each
	for i, t := range targets {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if total > 0 && time.Since(begin)+longest > total {
			fmt.Fprintf(out, "%d of %d targets, the time is over\n", i, len(targets))
			break
		}
		began := time.Now()
		said, err := t.fuzz(ctx, each)
		took := time.Since(began)
		longest = max(longest, took)
		fmt.Fprintf(out, "%-32s %-20s %4.0f s  %s\n", t.dir, t.name, took.Seconds(), lastFigures(said))
		if err != nil {
			failures = append(failures, fmt.Errorf("%s in %s: %w\n%s", t.name, t.dir, err, said))
		}
	}
	return errors.Join(failures...)
}

var declaration = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(\w+ \*testing\.F\)`)

// find returns the targets under a folder that are wanted.
func find(root string, wanted *regexp.Regexp) ([]target, error) {
	var targets []target
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), "."):
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, found := range declaration.FindAllSubmatch(text, -1) {
			if t := (target{filepath.Dir(path), string(found[1])}); wanted.MatchString(t.dir + " " + t.name) {
				targets = append(targets, t)
			}
		}
		return nil
	})
	slices.SortFunc(targets, func(a, b target) int { return strings.Compare(a.dir+" "+a.name, b.dir+" "+b.name) })
	return targets, err
}

// fuzz runs a target, and returns what it said.
func (t target) fuzz(ctx context.Context, time time.Duration) ([]byte, error) {
	command := exec.CommandContext(ctx, "go", "test", "-vet=off", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", time.String(), ".")
	command.Dir = t.dir
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	return command.CombinedOutput()
}

// lastFigures returns the last line of go test that tells how many inputs were tried.
func lastFigures(said []byte) string {
	figures := "no figures"
	for line := range bytes.Lines(said) {
		if _, after, ok := bytes.Cut(line, []byte("execs: ")); ok {
			figures = "inputs: " + strings.TrimSpace(string(after))
		}
	}
	return figures
}
