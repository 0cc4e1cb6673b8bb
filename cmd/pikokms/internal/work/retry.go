package work

import (
	"context"
	"time"

	"piko.sh/pikokms/cmd/pikokms/internal/places"
)

// retry works on an object. After an error that may pass it tries again, up to five times in all,
// unless the run is to stop.
func retry[T any](ctx context.Context, i Item, stop *stopping, work func(context.Context, Item) (T, error)) (T, error) {
	begun := time.Now()
	return places.Retry(ctx, func() (T, bool, error) {
		n, err := work(ctx, i)
		if i.Since.IsZero() {
			i.Since = begun
		}
		return n, !i.place.IsStandardInput() && !stop.isAsked() && places.IsTransient(err), err
	})
}
