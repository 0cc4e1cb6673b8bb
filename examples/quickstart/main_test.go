package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestRun(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "tiny": "tiny", "source": ""} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if name == "source" {
			file = "main.go"
		}
		if err := run(t.Context(), file); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := run(t.Context(), filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}
