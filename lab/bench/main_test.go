package main

import (
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"piko.sh/pikokms/internal/race"
)

// inMemory are the subjects at sizes up to 64 KiB.
var inMemory = []string{
	"raw", "raw-in-place", "floor", "raw-stream", "pikokms", "pikokms-pull", "pikokms-cached",
	"pikokms-rsa-4096", "pikokms-ecdh-p256", "pikokms-hpke",
	"minio/sio", "tink", "age", "aws-esdk-go", "gocloud-secrets",
}

func TestMain(m *testing.M) {
	flag.Parse()
	if race.Enabled || testing.Short() {
		fmt.Println("skipped: measuring is tried without the race detector, and not in short mode")
		return
	}
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
	out, notes := bench(t, "-size", "1KiB", "-repeats", "1", "-parallelism", "1")
	for _, name := range inMemory {
		row := regexp.MustCompile(`(?m)^\| ` + name + `( \(.+\))? \| \d+ \| [\d.]+ \([\d.]+–[\d.]+\) \| \d+ \| .+ \| \d+ / \d+ \| \d+ KB / \d+ KB \| \d+ / \d+ \|$`)
		if !row.MatchString(out) {
			t.Errorf("no row for %s", name)
		}
	}
	if !strings.HasPrefix(out, "1 KiB from memory, output discarded, ") || !strings.Contains(out, "\n|  | encrypt MB/s | to raw | decrypt MB/s | to raw | allocs | memory | objects/s |\n|---|") {
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
	for _, feeding := range []string{"-copies=false", "-copies"} {
		out, _ := bench(t, "-json", "-size", "3000", "-repeats", "1", "-parallelism", "1", feeding)
		checkEntries(t, out, 3000, inMemory, []string{"encrypt", "decrypt"})
	}
}

func TestEndToEnd(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	out, _ := bench(t, "-end-to-end", "-json", "-size", "5MiB", "-repeats", "1", "-parallelism", "1", "-only", "folder")
	checkEntries(t, out, 5<<20, []string{"folder-plain", "folder-encrypted"}, []string{"upload", "download"})

	out, _ = bench(t, "-end-to-end", "-size", "5MiB", "-repeats", "1", "-parallelism", "1,2", "-only", "folder-encrypted")
	if !strings.HasPrefix(out, "5 MiB to and from storage, ") || !strings.Contains(out, "| upload MB/s | time to plain | download MB/s |") ||
		!strings.Contains(out, "\n| folder-encrypted | 1 | ") || !strings.Contains(out, "\n| folder-encrypted | 2 | ") {
		t.Error(out)
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestEndToEndOnS3(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: LocalStack is not for short mode")
	}
	if os.Getenv("PIKOKMS_REQUIRE_DOCKER") != "1" && exec.Command("docker", "info").Run() != nil {
		t.Skip("skipped: LocalStack needs a Docker engine, and none answers (PIKOKMS_REQUIRE_DOCKER=1 makes this a failure)")
	}
	out, _ := bench(t, "-end-to-end", "-json", "-size", "20MiB", "-repeats", "1", "-parallelism", "1", "-only", "s3")
	checkEntries(t, out, 20<<20, []string{"s3-plain", "s3-encrypted"}, []string{"upload", "download"})
}

func TestOnly(t *testing.T) {
	out, _ := bench(t, "-json", "-size", "1KiB", "-repeats", "1", "-only", "^pikokms$|^age$", "-parallelism", "1")
	var names []string
	for _, e := range decode(t, out) {
		names = append(names, e["name"].(string))
	}
	if got := strings.Join(names, " "); got != "pikokms pikokms age age" {
		t.Errorf("measured %s", got)
	}
}

// The test chooses subjects and measures nothing.
func TestWholeMessagesAreLeftOutWhenLarge(t *testing.T) {
	o, err := parseOptions([]string{"-size", "1GiB"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	o.parallelism = []int{1, 2}
	subjects, err := newSubjects(o.parallelism)
	if err != nil {
		t.Fatal(err)
	}
	var notes, names strings.Builder
	for _, s := range fitting(o, subjects, o.sizes[0], &notes) {
		names.WriteString(s.name + " ")
	}
	each := "raw-stream pikokms pikokms-pull minio/sio tink age "
	if got := names.String(); got != "raw raw-in-place "+each+each {
		t.Errorf("measured are %s", got)
	}
	want := "bench: aws-esdk-go is left out at 1 GiB: it holds whole messages in memory\n" +
		"bench: gocloud-secrets is left out at 1 GiB: it holds whole messages in memory\n"
	if notes.String() != want {
		t.Errorf("notes: %s", notes.String())
	}
}

func TestAheadOfPeers(t *testing.T) {
	rows := []result{
		{subject: subject{name: "raw", parallelism: 1}, op: "encrypt", speed: 9, rounds: []float64{9, 9, 9}},
		{subject: subject{name: "pikokms", parallelism: 1}, op: "encrypt", speed: 6, rounds: []float64{6, 6, 6}},
		{subject: subject{name: "pikokms", parallelism: 1}, op: "decrypt", speed: 6, rounds: []float64{6, 6, 6}},
		{subject: subject{name: "pikokms", parallelism: 2}, op: "decrypt", speed: 8, rounds: []float64{8, 8, 8}},
		{subject: subject{name: "slow", parallelism: 1, peer: true}, op: "encrypt", speed: 2, rounds: []float64{2, 2, 2}},
		{subject: subject{name: "near", parallelism: 1, peer: true}, op: "encrypt", speed: 4, rounds: []float64{3, 4, 5}},
		{subject: subject{name: "near", parallelism: 1, peer: true}, op: "decrypt", speed: 8, rounds: []float64{8, 8, 8}},
	}
	var text strings.Builder
	writeNearest(&text, rows)
	want := "- encrypt, 1 core: pikokms is ahead of every peer; the fastest is near, of whose speed it has 1.500 (1.350–1.750)\n" +
		"- decrypt, 1 core: pikokms is not ahead of every peer; the fastest is near, of whose speed it has 0.750 (0.750–0.750)\n\n"
	if text.String() != want {
		t.Error(text.String())
	}

	out, _ := bench(t, "-size", "4KiB,64KiB", "-repeats", "1", "-parallelism", "1,2", "-only", "^(pikokms|age|tink)$")
	if n := len(regexp.MustCompile(`(?m)^- (en|de)crypt, (1 core|2 cores): pikokms is .+`).FindAllString(out, -1)); n != 8 {
		t.Errorf("%d lines instead of two for each size and number of cores: %s", n, out)
	}
}

func TestParallelism(t *testing.T) {
	for list, want := range map[string][]int{"1": {1}, "2,1,2": {1, 2}, "all": {runtime.NumCPU()}, "all,1000": {runtime.NumCPU(), 1000}} {
		o, err := parseOptions([]string{"-parallelism", list}, nil)
		if err != nil || !slices.Equal(o.parallelism, want) {
			t.Errorf("%s: %v, %v", list, o.parallelism, err)
		}
	}
	seen := make(map[int]bool)
	look := repeat(func(w *workspace) error {
		seen[runtime.GOMAXPROCS(0)] = true
		_, err := w.destination.Write(w.in)
		return err
	})
	o := &options{sizes: []int{smallBelow}, only: regexp.MustCompile(""), repeats: 1}
	if _, err := measureAll(o, []subject{{name: "look", parallelism: 3, encrypt: look, decrypt: look}}, [2]string{"to", "fro"}, io.Discard); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(seen, map[int]bool{3: true}) {
		t.Errorf("GOMAXPROCS is %v in measuring for 3", seen)
	}
}

// Sources and destinations differ only in the methods that a stream can use.
func TestFeeding(t *testing.T) {
	for _, copies := range []bool{false, true} {
		w := newWorkspace(1000, copies)
		if _, ok := w.source.(io.WriterTo); ok == copies {
			t.Errorf("copies %v: the source hands its memory over: %v", copies, ok)
		}
		if _, ok := w.destination.(io.ReaderFrom); ok {
			t.Error("the destination reads itself")
		}
		var sealed, opened []int
		pass := streaming("pass", "", func(dst io.Writer, src io.Reader) error {
			_, err := io.Copy(dst, src)
			sealed = append(sealed, len(w.out.room))
			return err
		}, func(dst io.Writer, src io.Reader) error {
			_, err := io.Copy(dst, src)
			opened = append(opened, len(w.out.room))
			return err
		})
		pass.parallelism = 1
		if _, err := measureSize([]subject{pass}, [2]string{"to", "fro"}, w, 1); err != nil {
			t.Fatal(err)
		}
		want := 0
		if copies {
			want = 1000
		}
		// The last is measured, but stored once more for decrypting if measuring discarded it.
		if n := sealed[len(sealed)-2]; n != want {
			t.Errorf("copies %v: encrypting left %d bytes of 1000 in memory", copies, n)
		}
		if n := opened[len(opened)-1]; n != want {
			t.Errorf("copies %v: decrypting left %d bytes of 1000 in memory", copies, n)
		}
	}
}

func TestWrongResultsAreFound(t *testing.T) {
	flow := func(dst io.Writer, src io.Reader) error {
		_, err := io.Copy(dst, src)
		return err
	}
	writing := func(change func(b []byte) []byte) stream {
		return func(dst io.Writer, src io.Reader) error {
			b, err := io.ReadAll(src)
			if err != nil {
				return err
			}
			_, err = dst.Write(change(b))
			return err
		}
	}
	calls := 0
	for name, c := range map[string]struct {
		encrypt, decrypt stream
		want             string
	}{
		"changed":   {flow, writing(func(b []byte) []byte { b[500] ^= 1; return b }), errChanged.Error()},
		"cut":       {flow, writing(func(b []byte) []byte { return b[:999] }), errChanged.Error()},
		"longer":    {flow, writing(func(b []byte) []byte { return append(b, 0) }), errChanged.Error()},
		"cut later": {flow, writing(func(b []byte) []byte { calls++; return b[min(1, calls-1):] }), "wrote "},
	} {
		s := streaming(name, "", c.encrypt, c.decrypt)
		s.parallelism = 1
		_, err := measureSize([]subject{s}, [2]string{"to", "fro"}, newWorkspace(1000, false), 1)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPlot(t *testing.T) {
	for name, size := range map[string]string{"bars": "4KiB", "lines": "4KiB,64KiB"} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "speed.svg")
			bench(t, "-size", size, "-repeats", "1", "-only", "raw|sio", "-parallelism", "1,2", "-plot", file)
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
			for _, label := range []string{"encrypt, 1 core", "decrypt, 2 cores", "minio/sio", "4 KiB"} {
				if !strings.Contains(string(text), label) {
					t.Errorf("%q is not in the plot", label)
				}
			}
		})
	}
}

func TestHelp(t *testing.T) {
	out, _ := bench(t, "-h")
	for _, name := range append([]string{"-copies", "-end-to-end", "-plot FILE.svg"}, inMemory[:6]...) {
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
		`-parallelism: "most" is no positive`:   {"-parallelism", "most"},
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
