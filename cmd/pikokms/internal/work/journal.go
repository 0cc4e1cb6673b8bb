package work

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/files"
)

// Journal is the file of --resume: which job it is, the plan, and what came of each object. It is
// only ever appended to, in records with a checksum. So whenever the process is killed, the file
// has all that was saved before, and after that at most a part of a record, which the next process
// cuts off. Work that was done after the last save is recognised by its results. The journal holds
// no key and no content.
type Journal struct {
	File  *os.File
	Path  string
	job   JournaledJob
	again bool // an earlier process began the job

	records recordWriter
	blocks  [][]byte       // of the stored plan
	planned *journaledPlan // nil if the stored plan is not whole
	earlier earlierOutcomes

	mu      sync.Mutex
	unsaved []JournaledOutcome
	failure error // the first failure of a save
	done    chan struct{}
	saving  sync.WaitGroup
}

// JournaledJob identifies the job of a journal.
type JournaledJob struct {
	Version int       `json:"version"`
	About   string    `json:"about"` // for people: the verb and the places
	ID      string    `json:"id"`    // SHA-256 of all that defines the job
	Begun   time.Time `json:"begun"` // when the journal was made
}

// journaledPlan is stored when the plan is whole.
type journaledPlan struct {
	Begun    time.Time  `json:"begun"`  // when all was listed, and the work began
	Blocks   int        `json:"blocks"` // how many blocks the plan has; further ones are no part of it
	Unlisted []unlisted `json:"unlisted"`
}

// JournaledOutcome is what came of the object of this index.
type JournaledOutcome struct {
	Index int64 `json:"index"`
	Outcome
}

const journalVersion = 3

// The kinds of records. Each is a record's first byte.
const (
	jobRecord      = 'j' // the journaledJob in JSON; the first record
	blockRecord    = 'b' // the number of a block of the plan in 4 bytes, then the block; the last one of a number counts
	planRecord     = 'p' // a journaledPlan in JSON; the last one counts
	outcomesRecord = 'o' // journaledOutcomes in JSON; the last one of an index counts
)

// saveEvery is the time between two saves. Each syncs the disk once, for all that was done
// meanwhile.
const saveEvery = 200 * time.Millisecond

// blocksInWrite is how many blocks of the plan are written at once.
const blocksInWrite = 50

// NewJournaledJob describes a job. The texts of what identify it: they are all that defines what is
// done.
func NewJournaledJob(about string, what []string) JournaledJob {
	text, err := json.Marshal(what)
	if err != nil {
		panic(err) // strings can be marshalled
	}
	sum := sha256.Sum256(text)
	return JournaledJob{Version: journalVersion, About: about, ID: hex.EncodeToString(sum[:])}
}

// OpenJournal opens the journal of a job, or makes one. One process at a time can have it open.
func OpenJournal(path string, job JournaledJob) (*Journal, error) {
	_, err := os.Stat(path)
	j := &Journal{Path: path, again: err == nil}
	if errors.Is(err, fs.ErrNotExist) {
		err = makeJournal(path, job)
	}
	if err == nil {
		err = j.open(job)
	}
	if err != nil {
		return nil, fmt.Errorf("--resume %s: %w", path, files.WithoutPath(err))
	}
	j.done = make(chan struct{})
	j.saving.Go(j.saveOften)
	return j, nil
}

// makeJournal makes a journal, which appears under its name when it is whole.
func makeJournal(path string, job JournaledJob) (err error) {
	file, err := files.CreateTemporary(filepath.Dir(path))
	if err != nil {
		return err
	}
	temporary := file.Name()
	defer os.Remove(temporary)
	job.Begun = time.Now()
	text, err := json.Marshal(job)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	w := recordWriter{file: file}
	w.begin()
	w.add(jobRecord, text)
	if err := errors.Join(w.write(), file.Close()); err != nil {
		return err
	}
	if os.Link(temporary, path) == nil {
		return nil
	}
	if _, err := os.Lstat(path); err == nil {
		return errors.New("another process has just made it")
	}
	return os.Rename(temporary, path) // the file system has no hard links
}

// lockWait is how long to wait for another process that has the journal open.
const lockWait = time.Second

func (j *Journal) open(job JournaledJob) (err error) {
	if j.File, err = os.OpenFile(j.Path, os.O_RDWR, 0); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, j.File.Close())
		}
	}()
	for begin := time.Now(); !files.LockAlone(j.File); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > lockWait {
			return errors.New("another process works with it")
		}
	}
	if err := j.Read(); err != nil {
		return err
	}
	switch {
	case j.job.Version != journalVersion:
		return errJournalVersion(j.job.Version)
	case j.job.ID != job.ID:
		return console.Usage(fmt.Errorf("it is the journal of another job: %s, begun on %s with other keys, places or options; give its command line, or name another file",
			j.job.About, j.job.Begun.Local().Format(time.DateTime)))

	}
	return nil
}

// Read reads all records, and cuts off the part of one that a killed process left.
func (j *Journal) Read() error {
	end, err := readRecords(j.File, j.take)
	if err != nil {
		return err
	}
	if j.job.ID == "" {
		return errDamaged("it does not say which job it is of")
	}
	j.records.file, j.records.end, j.records.number = j.File, end.offset, end.number
	return j.File.Truncate(end.offset)
}

// take adds the content of a record to the journal in memory.
func (j *Journal) take(kind byte, content []byte) (err error) {
	switch kind {
	case jobRecord:
		err = json.Unmarshal(content, &j.job)
	case blockRecord:
		if len(content) < 4 || uint64(binary.BigEndian.Uint32(content)) > uint64(len(j.blocks)) {
			return errDamaged(errPlan.Error())
		}
		n := int(binary.BigEndian.Uint32(content))
		j.blocks = append(j.blocks[:n], bytes.Clone(content[4:]))
	case planRecord:
		j.planned = new(journaledPlan)
		if err = json.Unmarshal(content, j.planned); err == nil && j.planned.Blocks > len(j.blocks) {
			return errDamaged(errPlan.Error())
		}
	case outcomesRecord:
		var all []JournaledOutcome
		if err = json.Unmarshal(content, &all); err != nil {
			break
		}
		for _, o := range all {
			if o.Index < 0 || o.Index > math.MaxUint32 {
				return errDamaged(errPlan.Error())
			}
			j.earlier.add(o)
		}
	default:
		return errDamaged(fmt.Sprintf("it has a record of the unknown kind %q", kind))
	}
	if err != nil {
		return errDamaged(err.Error())
	}
	return nil
}

// savePlan stores what the stored plan does not have yet.
func (j *Journal) savePlan(p *Plan) error {
	first := 0
	if j.planned != nil {
		first = j.planned.Blocks
	}
	for ; first < len(p.blocks); first += blocksInWrite {
		for i, b := range p.blocks[first:min(first+blocksInWrite, len(p.blocks))] {
			j.records.add(blockRecord, append(binary.BigEndian.AppendUint32(nil, uint32(first+i)), b...))
		}
		if err := j.records.write(); err != nil {
			return j.blame(err)
		}
	}
	planned := journaledPlan{Begun: time.Now(), Blocks: len(p.blocks), Unlisted: p.Unlisted}
	if j.planned != nil {
		planned.Begun = j.planned.Begun
	}
	text, err := json.Marshal(planned)
	if err != nil {
		return err
	}
	j.planned = &planned
	j.records.add(planRecord, text)
	return j.blame(j.records.write())
}

// LoadPlan loads the plan. It returns false if there is none yet.
func (j *Journal) LoadPlan(p *Plan) (bool, error) {
	if j.planned == nil {
		j.blocks = nil // a part of it may be stored
		return false, nil
	}
	for _, u := range j.planned.Unlisted {
		if u.Place < 0 || u.Place >= len(p.Places) {
			return true, j.blame(errDamaged(errPlan.Error()))
		}
	}
	// Further blocks are of a listing that was not stored to its end.
	blocks := j.blocks[:j.planned.Blocks]
	j.blocks = nil
	p.Unlisted = j.planned.Unlisted
	if err := p.load(blocks); err != nil {
		return true, j.blame(errDamaged(err.Error()))
	}
	return true, nil
}

// Outcomes calls yield with each stored outcome, in the order of the plan.
func (j *Journal) Outcomes(yield func(JournaledOutcome) error) error {
	return j.blame(j.earlier.each(yield))
}

// Add adds an outcome, which the next save stores. Its name is not stored, since the plan has it.
func (j *Journal) Add(index int64, o Outcome) {
	o.Name = ""
	j.mu.Lock()
	defer j.mu.Unlock()
	j.unsaved = append(j.unsaved, JournaledOutcome{index, o})
}

// Save stores the outcomes that are not stored yet.
func (j *Journal) Save() error {
	j.mu.Lock()
	unsaved := j.unsaved
	j.unsaved = nil
	j.mu.Unlock()
	if len(unsaved) == 0 {
		return nil
	}
	text, err := json.Marshal(unsaved)
	if err != nil {
		return err
	}
	j.records.add(outcomesRecord, text)
	return j.records.write()
}

func (j *Journal) saveOften() {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-j.done:
			return
		case <-tick.C:
		}
		if err := j.Save(); err != nil {
			j.mu.Lock()
			j.failure = err
			j.mu.Unlock()
			return
		}
	}
}

// err returns why the journal can't be kept.
func (j *Journal) err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.blame(j.failure)
}

func (j *Journal) blame(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("--resume %s: %w", j.Path, files.WithoutPath(err))
}

// Close saves what is left to save, and closes the journal. If the work is finished, it removes the
// file, since there is nothing to resume.
func (j *Journal) Close(finished bool) error {
	close(j.done)
	j.saving.Wait()
	err := j.err()
	if err == nil {
		err = j.blame(j.Save())
	}
	if err := errors.Join(err, j.blame(j.File.Close())); err != nil || !finished {
		return err
	}
	return j.blame(os.Remove(j.Path))
}

// earlierOutcomes are the outcomes of earlier runs, by the index of their objects. There may be
// millions, so texts, of which there are few, are kept once.
type earlierOutcomes struct {
	all     []earlierOutcome
	texts   []string
	numbers map[string]uint32 // of texts, from 1
}

type earlierOutcome struct {
	bytes          int64
	result, reason uint32 // numbers of texts; the result is 0 if there is none
}

func (e *earlierOutcomes) add(o JournaledOutcome) {
	for int64(len(e.all)) <= o.Index {
		e.all = append(e.all, earlierOutcome{})
	}
	e.all[o.Index] = earlierOutcome{o.Bytes, e.number(o.Result), e.number(o.Reason)}
}

func (e *earlierOutcomes) number(text string) uint32 {
	if e.numbers == nil {
		e.numbers = make(map[string]uint32)
	}
	if e.numbers[text] == 0 {
		e.texts = append(e.texts, text)
		e.numbers[text] = uint32(len(e.texts))
	}
	return e.numbers[text]
}

func (e *earlierOutcomes) each(yield func(JournaledOutcome) error) error {
	for i, o := range e.all {
		if o.result == 0 {
			continue
		}
		if err := yield(JournaledOutcome{int64(i), Outcome{Result: e.texts[o.result-1], Bytes: o.bytes, Reason: e.texts[o.reason-1]}}); err != nil {
			return err
		}
	}
	return nil
}
