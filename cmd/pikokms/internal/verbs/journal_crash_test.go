package verbs

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/internal/files"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/provider/local"
)

var journalKills = flag.Int("journal.kills", 6, "the `NUMBER` of processes that are killed while they write a journal, and of commands with one")

// journalVariable names the environment variable with the journal that a process writes until it is
// killed.
const journalVariable = "PIKOKMS_TEST_JOURNAL"

// killsOfAJournal is how many processes write one journal, one after the other.
const killsOfAJournal = 25

var crashJob = work.NewJournaledJob("a test", []string{"crash"})

// TestKilledJournals kills processes that write a journal, and say on standard output what is
// saved. All of that is in the journal afterwards, and nothing that was not written.
func TestKilledJournals(t *testing.T) {
	race.SkipShort(t)
	if path := os.Getenv(journalVariable); path != "" {
		t.Fatal(writeJournal(path)) // it never returns but for a failure
	}
	startsManyProcesses(t)
	saved, kept, unmade, begin := int64(0), int64(0), 0, time.Now()
	path := filepath.Join(t.TempDir(), "journal")
	least := int64(0) // outcomes that are saved for sure
	for n := range *journalKills {
		said := killWriter(t, path, n%killsOfAJournal == 0)
		least = max(least, said)
		if _, err := os.Stat(path); os.IsNotExist(err) {
			require.Zero(t, least, "after kill %d the journal is lost", n+1)
			unmade++
			continue
		}
		j, err := work.OpenJournal(path, crashJob)
		require.NoError(t, err, "after kill %d", n+1)
		found := checkJournal(t, j)
		require.GreaterOrEqual(t, found, least, "after kill %d, outcomes are lost", n+1)
		saved, kept = saved+said, kept+found-least
		least = found
		last := n%killsOfAJournal == killsOfAJournal-1 || n == *journalKills-1
		require.NoError(t, j.Close(last))
		if last {
			require.NoFileExists(t, path)
			least = 0
		}
	}
	left := entries(filepath.Dir(path))
	for _, name := range left {
		require.True(t, strings.HasPrefix(name, files.TemporaryPrefix), "%s is left", name)
	}
	t.Logf("%d processes killed in %.0f s: no saved outcome is lost, %d of a save under way came to be, none is in part; %d were killed before the journal was made, %d temporary files were left",
		*journalKills, time.Since(begin).Seconds(), kept, unmade, len(left))
}

// checkJournal checks that a journal is consistent and has outcomes without a gap, and returns how
// many.
func checkJournal(t *testing.T, j *work.Journal) (n int64) {
	t.Helper()
	require.NoError(t, j.Outcomes(func(o work.JournaledOutcome) error {
		if o.Index != n || o.Result != "tested" || o.Bytes != n*n {
			return fmt.Errorf("outcome %d is %+v", n, o)
		}
		n++
		return nil
	}))
	return n
}

// killWriter starts a process that writes a journal, kills it, and returns how many outcomes it
// reported as saved. It kills the process soon after a save or, if early is set, soon after the
// start.
func killWriter(t *testing.T, path string, early bool) (saved int64) {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.timeout", "1m")
	command.Env = append(os.Environ(), journalVariable+"="+path)
	command.Stderr = os.Stderr
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	var once sync.Once
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var n int64
		if _, err := fmt.Sscanf(lines.Text(), "saved %d.", &n); err != nil {
			continue // a line that was cut
		}
		saved = max(saved, n)
		if n > 0 || early {
			once.Do(func() {
				time.AfterFunc(time.Duration(mathrand.IntN(15_000))*time.Microsecond, func() { _ = command.Process.Kill() })
			})
		}
	}
	require.Error(t, command.Wait())
	require.False(t, command.ProcessState.Exited(), "the process ended by itself")
	return saved
}

// writeJournal writes a journal until it is killed.
func writeJournal(path string) error {
	fmt.Println("saved 0.") // each line is one call of the system
	j, err := work.OpenJournal(path, crashJob)
	if err != nil {
		return err
	}
	next := int64(0)
	if err := j.Outcomes(func(work.JournaledOutcome) error { next++; return nil }); err != nil {
		return err
	}
	for {
		for range mathrand.IntN(100) {
			j.Add(next, work.Outcome{Name: "left out", Result: "tested", Bytes: next * next})
			next++
		}
		if err := j.Save(); err != nil {
			return err
		}
		fmt.Printf("saved %d.\n", next)
	}
}

// TestKilledCommandsWithAJournal kills a command at any moment and begins it again, until all is
// done, and then another one. What a journal says is done is whole, stays in the journal, and is
// not done again.
func TestKilledCommandsWithAJournal(t *testing.T) {
	race.SkipShort(t)
	startsManyProcesses(t)
	dir := t.TempDir()
	k := killed{place: filepath.Join(dir, "in"), objects: 1000, contents: make(map[string][]byte)}
	k.old, k.renewed = "local:"+filepath.Join(dir, "old.key"), "local:"+filepath.Join(dir, "new.key")
	require.NoError(t, local.Generate(filepath.Join(dir, "old.key")))
	require.NoError(t, local.Generate(filepath.Join(dir, "new.key")))
	write := k.writer(t)
	for i := range k.objects {
		name, content := fmt.Sprintf("%d/%d", i%7, i), make([]byte, 1000+i)
		_, _ = rand.Read(content) // never fails
		content[0] = 'x'          // else one of them may begin as something that is encrypted
		k.contents[name] = content
		require.NoError(t, write(name, content))
	}
	journal := filepath.Join(dir, "journal")
	kills, jobs, half, begin := 0, 0, 0, time.Now()
	for kills < *journalKills {
		for _, arguments := range [][]string{
			{"encrypt", "-k", k.old}, {"rewrap", "-k", k.old, "--to", k.renewed}, {"decrypt", "-k", k.renewed},
		} {
			arguments = append(arguments, "--in-place", "--jobs", "8", "--resume", journal, k.place)
			first, marked := k.versions(t, k.place), make(map[string]string)
			for ended := false; !ended; {
				if kills < *journalKills {
					ended = killAtWrite(t, journal, arguments)
				} else {
					_, stderr, _, err := execute(t, arguments...)
					require.NoError(t, err, stderr)
					ended = true
				}
				if !ended {
					kills++
				}
				now := k.versions(t, k.place)
				require.Len(t, now, k.objects, "after kill %d, objects are lost", kills)
				for name, version := range marked {
					require.Equal(t, version, now[name], "after kill %d, %s was done twice", kills, name)
				}
				if _, err := os.Stat(journal); os.IsNotExist(err) {
					ended = true // it was there when the command was killed, so all is done
				}
				if ended {
					for name, version := range now {
						require.NotEqual(t, first[name], version, "after kill %d, %s is not done", kills, name)
					}
				}
				if _, err := os.Stat(journal); os.IsNotExist(err) {
					continue
				}
				done := doneOf(t, journal, k.place)
				for name := range marked {
					require.Contains(t, done, name, "after kill %d, the journal forgot it", kills)
				}
				for name := range done {
					require.NotEqual(t, first[name], now[name], "after kill %d, the journal says that %s is done", kills, name)
					marked[name] = now[name]
				}
				if len(done) > 0 {
					half++
				}
			}
			require.NoFileExists(t, journal)
			jobs++
			if arguments[0] == "decrypt" {
				k.check(t, k.place)
				continue
			}
			key := k.old
			if arguments[0] == "rewrap" {
				key = k.renewed
			}
			_, stderr, _, err := execute(t, "verify", "-k", key, k.place)
			require.NoError(t, err, stderr)
			require.Contains(t, stderr, fmt.Sprintf("verified %d objects of ", k.objects))
		}
	}
	t.Logf("%d commands killed in %.0f s, over %d jobs of %d objects each: none is lost, in part or done twice, and each journal kept all it had; %d were killed with outcomes in their journal",
		kills, time.Since(begin).Seconds(), jobs, k.objects, half)
}

// killAtWrite runs a command line, and kills it at one of the first writes of its journal or soon
// after. It returns true if the command had come to its end.
func killAtWrite(t *testing.T, journal string, arguments []string) (ended bool) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "pikokms", arguments...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	var last time.Time
	if info, err := os.Stat(journal); err == nil {
		last = info.ModTime()
	}
	require.NoError(t, command.Start())
	end := make(chan error, 1)
	go func() { end <- command.Wait() }()
	changes, wait := mathrand.IntN(8), time.Duration(mathrand.IntN(3_000)*mathrand.IntN(2))*time.Microsecond
	for {
		if info, statErr := os.Stat(journal); statErr == nil && !info.ModTime().Equal(last) {
			last = info.ModTime()
			if changes--; changes < 0 {
				time.Sleep(wait)
				_ = command.Process.Kill()
				err := <-end
				require.True(t, err == nil || !command.ProcessState.Exited(), stderr.String())
				return err == nil
			}
		}
		select {
		case err := <-end:
			require.NoError(t, err, stderr.String())
			return true
		case <-time.After(100 * time.Microsecond):
		}
	}
}

// doneOf returns the objects that a journal records as done. It reads a copy of the file, as a
// killed process leaves it.
func doneOf(t *testing.T, path, in string) map[string]bool {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	copied := filepath.Join(t.TempDir(), "journal")
	require.NoError(t, os.WriteFile(copied, content, 0o600))
	file, err := os.OpenFile(copied, os.O_RDWR, 0)
	require.NoError(t, err)
	defer file.Close()
	j := &work.Journal{File: file, Path: copied}
	require.NoError(t, j.Read())
	opened, err := places.Opener{}.Open(t.Context(), in)
	require.NoError(t, err)
	defer opened.Close()
	p := &work.Plan{Places: []*places.Place{opened}}
	_, err = j.LoadPlan(p)
	require.NoError(t, err)
	names := make(map[int64]string)
	for i := range p.All() {
		names[i.Index] = i.Key
	}
	done := make(map[string]bool)
	require.NoError(t, j.Outcomes(func(o work.JournaledOutcome) error {
		if o.Result == work.ResultFailed {
			return fmt.Errorf("%s failed: %s", names[o.Index], o.Reason)
		}
		done[names[o.Index]] = true
		return nil
	}))
	return done
}

// TestDamagedJournals changes a journal in many ways. A command that is given it goes on, or says
// in one line what is wrong, and all that it says is done is done.
func TestDamagedJournals(t *testing.T) {
	race.SkipShort(t)
	dir, key, _ := newFolder(t, 60)
	path := filepath.Join(t.TempDir(), "journal")
	arguments := []string{"encrypt", "-k", "local:" + key, "--in-place", "--resume", path, dir}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "0"), []byte{2, 5, 0x78, 0}, 0o600)) // fails, and the journal stays
	_, stderr, _, err := execute(t, arguments...)
	require.Error(t, err)
	require.Contains(t, stderr, "1 failed")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	random := mathrand.New(mathrand.NewPCG(1, 2))
	damaged, wentOn := 0, 0
	for range 200 {
		bad := bytes.Clone(good)
		switch at := random.IntN(len(bad)); random.IntN(5) {
		case 0:
			bad[at] ^= 1 << random.IntN(8)
		case 1:
			bad = bad[:at]
		case 2:
			from, n := random.IntN(len(bad)), random.IntN(64)
			copy(bad[at:min(at+n, len(bad))], bad[from:])
		case 3:
			clear(bad[at:min(at+random.IntN(512), len(bad))])
		case 4:
			bad = append(bad[:at:at], append([]byte("more"), bad[at:]...)...)
		}
		require.NoError(t, os.WriteFile(path, bad, 0o600))
		j, err := work.OpenJournal(path, work.JournaledJob{})
		if err == nil {
			t.Fatal("a journal of another job was opened")
		}
		require.Nil(t, j)
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(t, err)
		j = &work.Journal{File: file, Path: path}
		if err := j.Read(); err != nil {
			require.NotContains(t, err.Error(), "\n")
			damaged++
		} else {
			wentOn++
			p := &work.Plan{Places: []*places.Place{{Name: "d"}}}
			if planned, err := j.LoadPlan(p); planned {
				require.NoError(t, err)
				require.EqualValues(t, 60, p.Objects)
			}
			require.NoError(t, j.Outcomes(func(o work.JournaledOutcome) error {
				require.Less(t, o.Index, int64(60))
				require.Equal(t, "encrypted", o.Result)
				return nil
			}))
		}
		require.NoError(t, file.Close())
	}
	require.Positive(t, wentOn)
	require.Greater(t, damaged, 50)
	t.Logf("of 200 damaged journals %d were refused in one line, and %d went on with what was whole", damaged, wentOn)
}
