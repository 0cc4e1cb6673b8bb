package work

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"piko.sh/pikokms/cmd/pikokms/internal/look"
)

// DoneBefore means that an object was worked on before the work was interrupted.
const DoneBefore = Skipped("it was done before the interruption")

// recognise returns DoneBefore if the result of an object is in its place already. The work on the
// object may have been interrupted before the journal had it, or a service's answer may have been
// lost.
func (t *target) recognise(ctx context.Context, j Job, i, to Item) error {
	if t.place == nil || i.Since.IsZero() {
		return nil // an object in place is recognised by Job.Judge
	}
	stored := look.Examine(ctx, to.place, to.Key)
	if stored.Kind == "" && errors.Is(stored.Err, fs.ErrNotExist) {
		return nil
	}
	if stored.Err != nil || !IsSince(stored.ModTime, i) {
		return nil // put returns the error
	}
	from := look.Examine(ctx, i.place, i.Key)
	changed := from.ModTime
	if stored.ModTime.Nanosecond() == 0 { // buckets have times in whole seconds
		changed = changed.Truncate(time.Second)
	}
	if from.Err != nil || stored.ModTime.Before(changed) {
		return nil
	}
	made, err := j.Made(ctx, from, stored)
	if err == nil && made {
		err = DoneBefore
	}
	return err
}

// clockSlack is how much the clock of a bucket or a file system may be behind ours.
const clockSlack = time.Minute

// IsSince reports whether something was stored after an earlier try or run may have begun to work
// on an object.
func IsSince(modTime time.Time, i Item) bool { return !modTime.Before(i.Since.Add(-clockSlack)) }
