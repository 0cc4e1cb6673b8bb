package main

import (
	"os"
	"os/exec"
	"testing"
)

func TestRun(t *testing.T) {
	if testing.Short() || os.Getenv("PIKOKMS_REQUIRE_DOCKER") != "1" && exec.Command("docker", "info").Run() != nil {
		t.Skip("skipped: LocalStack is not for short mode, and needs a Docker engine (PIKOKMS_REQUIRE_DOCKER=1 makes a missing one a failure)")
	}
	t.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
	if err := run(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
}
