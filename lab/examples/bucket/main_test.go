package main

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
)

func TestInMemory(t *testing.T) {
	t.Setenv("PATH", "") // it needs no other program
	t.Setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
	var out bytes.Buffer
	if err := inMemory(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	if want := "large.bin: 8388608 bytes, 839"; !bytes.HasPrefix(out.Bytes(), []byte(want)) {
		t.Errorf("it says %q", out.String())
	}
}

func TestInS3(t *testing.T) {
	if testing.Short() || os.Getenv("PIKOKMS_REQUIRE_DOCKER") != "1" && exec.Command("docker", "info").Run() != nil {
		t.Skip("skipped: LocalStack needs a Docker engine, and none answers (PIKOKMS_REQUIRE_DOCKER=1 makes this a failure)")
	}
	for _, name := range []string{"TESTCONTAINERS_RYUK_DISABLED", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		t.Setenv(name, "") // which inS3 sets
	}
	if err := inS3(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
}
