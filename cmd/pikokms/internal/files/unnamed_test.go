package files

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestLeftoversAreSwept(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	written, err := CreateTemporary(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer written.Close()
	for _, name := range []string{TemporaryPrefix + "old", TemporaryPrefix + "new", "other"} {
		if err := os.WriteFile(at(name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-2 * leftoverAge)
	for _, path := range []string{written.Name(), at(TemporaryPrefix + "old"), at("other")} {
		if err := os.Chtimes(path, past, past); err != nil {
			t.Fatal(err)
		}
	}
	sweep(dir)
	for path, kept := range map[string]bool{written.Name(): true, at(TemporaryPrefix + "old"): false, at(TemporaryPrefix + "new"): true, at("other"): true} {
		if _, err := os.Lstat(path); (err == nil) != kept {
			t.Errorf("%s: kept %v, not %v", filepath.Base(path), err == nil, kept)
		}
	}
}
