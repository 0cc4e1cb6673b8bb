package main

import (
	"os"
	"os/exec"
	"testing"
)

func TestRun(t *testing.T) {
	if os.Getenv("PIKOKMS_REQUIRE_DOCKER") != "1" && exec.Command("docker", "info").Run() != nil {
		t.Skip("skipped: LocalStack needs a Docker engine, and none answers (PIKOKMS_REQUIRE_DOCKER=1 makes this a failure)")
	}
	t.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	if err := run(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
}
