package command

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// journal is the file of --resume: which job it is, the plan, and what came of each object. It is
// a database, so that whatever moment the process is killed at, the file is as it was at the last
// save. What was done after that, and is not in the journal, is recognised by what it left. The
// journal holds no key and no content.
type journal struct {
	db    *bolt.DB
	path  string
	job   journaledJob
	again bool // the job was begun by a process before this one

	mu      sync.Mutex
	unsaved []journaledOutcome
	failure error // the first one of a save
	done    chan struct{}
	saving  sync.WaitGroup
}

// journaledJob says which job a journal is of.
type journaledJob struct {
	Version int       `json:"version"`
	About   string    `json:"about"`   // for people: the verb and the places
	ID      string    `json:"id"`      // tells jobs apart: SHA-256 of all that says what is done
	Begun   time.Time `json:"begun"`   // when the plan was made
	Planned bool      `json:"planned"` // whether the whole plan is stored

	Blocks   int        `json:"blocks"`   // of the plan
	Unlisted []unlisted `json:"unlisted"` // of the plan
}

// journaledOutcome is what came of the object of this index.
type journaledOutcome struct {
	index int64
	outcome
}

const journalVersion = 2

// The buckets of the database: the job under the key "job", the plan's blocks by number, and the
// outcomes as JSON by index. Numbers have 8 bytes, in big endian.
var (
	jobBucket      = []byte("job")
	planBucket     = []byte("plan")
	outcomesBucket = []byte("outcomes")
	jobKey         = []byte("job")
)

// saveEvery is the time between two saves: one sync of the disk for all that is done in it.
const saveEvery = 200 * time.Millisecond

// blocksInSave is how many blocks of the plan are stored at once.
const blocksInSave = 50

// newJournaledJob describes a job. The texts of what, all together, say what is done.
func newJournaledJob(about string, what []string) journaledJob {
	text, err := json.Marshal(what)
	if err != nil {
		panic(err) // strings can be marshalled
	}
	sum := sha256.Sum256(text)
	return journaledJob{Version: journalVersion, About: about, ID: hex.EncodeToString(sum[:])}
}

// openJournal opens the journal of a job, or makes one. One process at a time can have it open.
func openJournal(path string, job journaledJob) (*journal, error) {
	_, err := os.Stat(path)
	j := &journal{path: path, again: err == nil}
	if errors.Is(err, fs.ErrNotExist) {
		err = makeJournal(path, job)
	}
	if err == nil {
		err = j.open(job)
	}
	if err != nil {
		return nil, fmt.Errorf("--resume %s: %w", path, withoutPath(err))
	}
	j.done = make(chan struct{})
	j.saving.Go(j.saveOften)
	return j, nil
}

var journalOptions = bolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bolt.FreelistMapType}

// makeJournal makes a journal, which appears under its name when it is whole.
func makeJournal(path string, job journaledJob) error {
	sweep(filepath.Dir(path)) // a process may have been killed while it made its journal
	temporary := filepath.Join(filepath.Dir(path), temporaryPrefix+rand.Text())
	defer os.Remove(temporary)
	options := journalOptions
	db, err := bolt.Open(temporary, 0o600, &options)
	if err != nil {
		return err
	}
	job.Begun = time.Now()
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{jobBucket, planBucket, outcomesBucket} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return job.put(tx)
	})
	if err := errors.Join(err, db.Close()); err != nil {
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

func (job journaledJob) put(tx *bolt.Tx) error {
	text, err := json.Marshal(job)
	if err != nil {
		return err
	}
	return tx.Bucket(jobBucket).Put(jobKey, text)
}

func (j *journal) open(job journaledJob) (err error) {
	options := journalOptions
	j.db, err = bolt.Open(j.path, 0o600, &options)
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return errors.New("another process works with it")
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrChecksum):
		return fmt.Errorf("%w: it is no journal of pikokms; name a file that does not exist yet", err)
	case err != nil:
		return err
	}
	err = j.db.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(jobBucket)
		if bucket == nil || tx.Bucket(planBucket) == nil || tx.Bucket(outcomesBucket) == nil {
			return errors.New("it is no journal of pikokms; name a file that does not exist yet")
		}
		if err := json.Unmarshal(bucket.Get(jobKey), &j.job); err != nil {
			return fmt.Errorf("it does not say which job it is of: %w", err)
		}
		return nil
	})
	switch {
	case err != nil:
	case j.job.Version != journalVersion:
		err = fmt.Errorf("its version is %d, and this command knows %d; the version of pikokms that began the job goes on with it, or name another file", j.job.Version, journalVersion)
	case j.job.ID != job.ID:
		err = usageError{fmt.Errorf("it is the journal of another job: %s, begun on %s with other keys, places or options; give its command line, or name another file",
			j.job.About, j.job.Begun.Local().Format(time.DateTime))}
	}
	if err != nil {
		return errors.Join(err, j.db.Close())
	}
	return nil
}

func numberKey(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// savePlan stores what the stored plan does not have yet.
func (j *journal) savePlan(p *plan) error {
	for first := j.job.Blocks; first < len(p.blocks); first += blocksInSave {
		err := j.db.Update(func(tx *bolt.Tx) error {
			bucket := tx.Bucket(planBucket)
			bucket.FillPercent = 0.9 // they come in order
			for i, b := range p.blocks[first:min(first+blocksInSave, len(p.blocks))] {
				if err := bucket.Put(numberKey(int64(first+i)), b); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return j.blame(err)
		}
	}
	if !j.job.Planned {
		j.job.Planned, j.job.Begun = true, time.Now()
	}
	j.job.Blocks, j.job.Unlisted = len(p.blocks), p.unlisted
	return j.blame(j.db.Update(j.job.put))
}

// loadPlan loads the plan. It returns false if there is none yet.
func (j *journal) loadPlan(p *plan) (bool, error) {
	if !j.job.Planned {
		return false, j.blame(j.db.Update(func(tx *bolt.Tx) error { // there may be a part of one
			if err := tx.DeleteBucket(planBucket); err != nil {
				return err
			}
			_, err := tx.CreateBucket(planBucket)
			return err
		}))
	}
	var blocks [][]byte
	err := j.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(planBucket).ForEach(func(_, b []byte) error {
			blocks = append(blocks, append([]byte(nil), b...))
			return nil
		})
	})
	switch {
	case err != nil:
	case len(blocks) < j.job.Blocks || slices.ContainsFunc(j.job.Unlisted, func(u unlisted) bool { return u.Place < 0 || u.Place >= len(p.places) }):
		err = errPlan
	default:
		// Blocks behind these are of a listing that was not stored to its end.
		p.unlisted = j.job.Unlisted
		err = p.load(blocks[:j.job.Blocks])
	}
	return true, j.blame(err)
}

// outcomes calls yield with each stored outcome, in the order of the plan.
func (j *journal) outcomes(yield func(journaledOutcome) error) error {
	return j.blame(j.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(outcomesBucket).ForEach(func(k, v []byte) error {
			if len(k) != 8 {
				return errPlan
			}
			o := journaledOutcome{index: int64(binary.BigEndian.Uint64(k))}
			if err := json.Unmarshal(v, &o.outcome); err != nil {
				return err
			}
			return yield(o)
		})
	}))
}

// add has an outcome stored with the next save. Its name is in the plan.
func (j *journal) add(index int64, o outcome) {
	o.Name = ""
	j.mu.Lock()
	defer j.mu.Unlock()
	j.unsaved = append(j.unsaved, journaledOutcome{index, o})
}

// save stores the outcomes that are not stored yet.
func (j *journal) save() error {
	j.mu.Lock()
	unsaved := j.unsaved
	j.unsaved = nil
	j.mu.Unlock()
	if len(unsaved) == 0 {
		return nil
	}
	return j.db.Update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(outcomesBucket)
		bucket.FillPercent = 0.9
		for _, o := range unsaved {
			text, err := json.Marshal(o.outcome)
			if err != nil {
				return err
			}
			if err := bucket.Put(numberKey(o.index), text); err != nil {
				return err
			}
		}
		return nil
	})
}

func (j *journal) saveOften() {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-j.done:
			return
		case <-tick.C:
		}
		if err := j.save(); err != nil {
			j.mu.Lock()
			j.failure = err
			j.mu.Unlock()
			return
		}
	}
}

// err returns why the journal can't be kept.
func (j *journal) err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.blame(j.failure)
}

func (j *journal) blame(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("--resume %s: %w", j.path, withoutPath(err))
}

// close saves what is left to save, and closes the journal. When all is done there is nothing to
// resume, and the file goes.
func (j *journal) close(finished bool) error {
	close(j.done)
	j.saving.Wait()
	err := j.err()
	if err == nil {
		err = j.blame(j.save())
	}
	if err := errors.Join(err, j.blame(j.db.Close())); err != nil || !finished {
		return err
	}
	return j.blame(os.Remove(j.path))
}
