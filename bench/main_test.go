package main

import (
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// inMemory are the subjects at sizes up to 64 KiB.
var inMemory = []string{
	"raw", "floor", "raw-stream", "pikokms", "pikokms-push", "pikokms-cached",
	"minio/sio", "tink", "age", "aws-esdk-go", "gocloud-secrets",
}

func TestMain(m *testing.M) {
	smallLasts = time.Millisecond
	os.Exit(m.Run())
}

func bench(t *testing.T, arguments ...string) (stdout, stderr string) {
	t.Helper()
	var out, notes strings.Builder
	if err := run(arguments, &out, &notes); err != nil {
		t.Fatal(err)
	}
	return out.String(), notes.String()
}

func TestMarkdownHasARowForEverySubject(t *testing.T) {
	out, notes := bench(t, "-size", "1KiB", "-repeats", "1")
	for _, name := range inMemory {
		row := regexp.MustCompile(`(?m)^\| ` + name + `( \(.+\))? \| \d+ \| [\d.]+ \([\d.]+–[\d.]+\) \| \d+ \| .+ \| \d+ / \d+ \| \d+ KB / \d+ KB \| \d+ / \d+ \|$`)
		if !row.MatchString(out) {
			t.Errorf("no row for %s", name)
		}
	}
	if !strings.HasPrefix(out, "1 KiB in memory, ") || !strings.Contains(out, "\n|  | encrypt MB/s | to raw | decrypt MB/s | to raw | allocs | memory | objects/s |\n|---|") {
		t.Error("no head")
	}
	if t.Failed() {
		t.Log(out)
	}
	if notes != "" {
		t.Errorf("notes: %s", notes)
	}
}

func TestMarkdownHasATableForEachSize(t *testing.T) {
	out, _ := bench(t, "-size", "100000,4096", "-repeats", "2", "-only", "^(raw|floor)$", "-parallelism", "1,2")
	tables := strings.Split(out, "\n\n")
	if len(tables) != 4 || !strings.HasPrefix(tables[0], "4 KiB ") || !strings.HasPrefix(tables[2], "100000 bytes ") {
		t.Fatalf("not two tables: %q", tables)
	}
	if !strings.Contains(tables[1], "| cores |") || !strings.Contains(tables[1], "| floor | 2 |") || !strings.Contains(tables[1], "| objects/s |") {
		t.Errorf("no cores or no objects per second: %s", tables[1])
	}
	if strings.Contains(tables[3], "floor") || strings.Contains(tables[3], "objects/s") {
		t.Errorf("what is for small objects only: %s", tables[3])
	}
}

func decode(t *testing.T, out string) []map[string]any {
	t.Helper()
	var entries []map[string]any
	if err := json.Unmarshal([]byte(out), &entries); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return entries
}

func checkEntries(t *testing.T, out string, size float64, names, ops []string) {
	t.Helper()
	missing := make(map[string]bool)
	for _, name := range names {
		for _, op := range ops {
			missing[name+" "+op] = true
		}
	}
	for _, e := range decode(t, out) {
		key := e["name"].(string) + " " + e["op"].(string)
		if !missing[key] {
			t.Errorf("unexpected or twice: %s", key)
		}
		delete(missing, key)
		if len(e) != 8 || e["size"] != size || e["parallelism"] != 1.0 {
			t.Errorf("not the keys and values of an entry: %v", e)
		}
		for _, number := range []string{"mb_per_s", "ratio_to_raw", "allocs", "bytes"} {
			value, ok := e[number].(float64)
			if !ok || value < 0 || strings.HasPrefix(key, "pikokms") && value == 0 {
				t.Errorf("%s: %s is %v", key, number, e[number])
			}
		}
		if e["name"] == names[0] && e["ratio_to_raw"] != 1.0 {
			t.Errorf("the base's ratio is %v", e["ratio_to_raw"])
		}
	}
	if len(missing) > 0 {
		t.Errorf("missing: %v", missing)
	}
}

func TestJSON(t *testing.T) {
	out, _ := bench(t, "-json", "-size", "3000", "-repeats", "1")
	checkEntries(t, out, 3000, inMemory, []string{"encrypt", "decrypt"})
}

func TestEndToEnd(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	out, _ := bench(t, "-end-to-end", "-json", "-size", "5MiB", "-repeats", "1")
	checkEntries(t, out, 5<<20, []string{"folder-plain", "folder-encrypted"}, []string{"upload", "download"})

	out, _ = bench(t, "-end-to-end", "-size", "5MiB", "-repeats", "1", "-only", "encrypted")
	if !strings.HasPrefix(out, "5 MiB to a folder, ") || !strings.Contains(out, "| upload MB/s | to plain | download MB/s |") || !strings.Contains(out, "\n| folder-encrypted | ") {
		t.Error(out)
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestOnly(t *testing.T) {
	out, _ := bench(t, "-json", "-size", "1KiB", "-repeats", "1", "-only", "^pikokms$|^age$")
	var names []string
	for _, e := range decode(t, out) {
		names = append(names, e["name"].(string))
	}
	if got := strings.Join(names, " "); got != "pikokms pikokms age age" {
		t.Errorf("measured %s", got)
	}
}

// Nothing is measured here: the subjects are only chosen.
func TestWholeMessagesAreLeftOutWhenLarge(t *testing.T) {
	o, err := parseOptions([]string{"-size", "1GiB"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	subjects, err := newSubjects(o.parallelism)
	if err != nil {
		t.Fatal(err)
	}
	var notes, names strings.Builder
	for _, s := range fitting(o, subjects, o.sizes[0], &notes) {
		names.WriteString(s.name + " ")
	}
	if got := names.String(); got != "raw raw-stream pikokms pikokms-push minio/sio tink age " {
		t.Errorf("measured are %s", got)
	}
	want := "bench: aws-esdk-go is left out at 1 GiB: it holds whole messages in memory\n" +
		"bench: gocloud-secrets is left out at 1 GiB: it holds whole messages in memory\n"
	if notes.String() != want {
		t.Errorf("notes: %s", notes.String())
	}
}

func TestPlot(t *testing.T) {
	for name, size := range map[string]string{"bars": "4KiB", "lines": "4KiB,64KiB"} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "speed.svg")
			bench(t, "-size", size, "-repeats", "1", "-only", "raw|sio", "-plot", file)
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var svg struct {
				XMLName xml.Name
			}
			if err := xml.Unmarshal(text, &svg); err != nil || svg.XMLName.Local != "svg" {
				t.Errorf("no SVG: %v, %v", svg, err)
			}
			for _, label := range []string{"encrypt", "decrypt", "minio/sio", "4 KiB"} {
				if !strings.Contains(string(text), label) {
					t.Errorf("%q is not in the plot", label)
				}
			}
		})
	}
}

func TestHelp(t *testing.T) {
	out, _ := bench(t, "-h")
	for _, name := range append([]string{"-end-to-end", "-plot FILE.svg"}, inMemory[:6]...) {
		if !strings.Contains(out, "  "+name) {
			t.Errorf("%s is not in the help", name)
		}
	}
}

func TestBadFlags(t *testing.T) {
	for want, arguments := range map[string][]string{
		"flag provided but not defined: -fast":  {"-fast"},
		`unexpected argument "64MiB"`:           {"64MiB"},
		`"1KB" is no size such as`:              {"-size", "1KB"},
		`"" is no size such as`:                 {"-size", "1KiB,"},
		`"0MiB" is no size such as`:             {"-size", "0MiB"},
		"9000000000GiB does not fit in memory":  {"-size", "9000000000GiB"},
		`-parallelism: "0" is no positive`:      {"-parallelism", "1,0"},
		"-repeats 0: at least 1":                {"-repeats", "0"},
		"-only: error parsing regexp":           {"-only", "("},
		"-only nobody: no subject of that name": {"-only", "nobody"},
		"must end in .svg":                      {"-plot", "speed.png"},
		"plotting: open ":                       {"-plot", filepath.Join(t.TempDir(), "none", "speed.svg"), "-size", "64", "-only", "^raw$", "-repeats", "1"},
	} {
		var out, notes strings.Builder
		err := run(arguments, &out, &notes)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", arguments, err)
		}
		if out.Len() > 0 {
			t.Errorf("%q: wrote %s", arguments, out.String())
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int{"512": 512, "1KiB": 1 << 10, "64MiB": 64 << 20, "1GiB": 1 << 30} {
		if n, err := parseSize(text); n != want || err != nil {
			t.Errorf("%s: %d, %v", text, n, err)
		}
	}
}

func TestQuantile(t *testing.T) {
	values := []float64{4, 1, 3, 2}
	for q, want := range map[float64]float64{0: 1, 0.25: 1.75, 0.5: 2.5, 1: 4} {
		if got := quantile(values, q); got != want {
			t.Errorf("quantile %v: %v", q, got)
		}
	}
}
