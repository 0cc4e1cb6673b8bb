package main

import (
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	if err := run(300_000, 1, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "| pikokms | ") {
		t.Errorf("no row for pikokms in %s", out.String())
	}
}
